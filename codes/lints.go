package codes

// lints are what `controlplane analyze` finds in a file that loads, beside a
// catalog if there is one.
func lints() []Entry {
	const catalog = "services:\n  nexus: [{id: n1, address: 10.0.0.1, port: 80, meta: {mesh_port: \"15443\"}}]\n  lake: [{id: l1, address: 10.0.0.2, port: 80, meta: {mesh_port: \"15443\"}}]\n"
	return []Entry{
		{
			Code: "MC2201", Title: "a service that the catalog lacks",
			Why:     "Its settings are nobody's, and a call to it is answered 503.",
			Example: "  circuit_breakers: {custom: {nexsu: {max_requests: 10}}}\n", Catalog: catalog,
			Fix: "Correct the name, or say what it is in the catalog: `services.X.consul_service`.",
		},
		{
			Code: "MC2202", Title: "an upstream that nobody is",
			Why:     "Calls to it are answered 404 or 503 for ever, if the name is a mistake.",
			Example: "  services: {nexus: {upstreams: [laek]}}\n", Catalog: catalog,
			Fix: "Correct the name.",
		},
		{
			Code: "MC2203", Title: "a policy names a service that nobody is",
			Why:     "A DENY of a misspelled name protects nothing, and an ALLOW admits nobody.",
			Example: "  security: {authorization: {policies: [{name: p, action: DENY, sources: [nexsu]}]}}\n", Catalog: catalog,
			Fix: "Correct the name.",
		},
		{
			Code: "MC2204", Title: "a service calls another, and no policy admits it",
			Why:     "It declares the upstream, so it gets a route there, and every call is answered 403 (over TCP: the connection is refused).",
			Example: "  services: {nexus: {upstreams: [lake]}}\n  security: {authorization: {policies: [{name: p, action: ALLOW, sources: [other]}]}}\n", Catalog: catalog,
			Fix: "Add an ALLOW of the caller, or take the upstream out.",
		},
		{
			Code: "MC2205", Title: "`5xx` is retried without a time for each try",
			Why:     "A try that hangs takes the whole time of the request, and is never tried again.",
			Example: "  policies: {retry: {conditions: [5xx], methods: [GET], timeout: 0s}}\n",
			Fix:     "Set `retry.timeout` to less than the timeout of the request.",
		},
		{
			Code: "MC2206", Title: "a try ends before its connection may be there",
			Why:     "`timeout.connect` is longer than `retry.timeout`, so a dead instance is never seen as one that does not answer.",
			Example: "  policies: {retry: {timeout: 1s}, timeout: {connect: 5s}}\n",
			Fix:     "Let `timeout.connect` be shorter than `retry.timeout`.",
		},
		{
			Code: "MC2207", Title: "every instance may be ejected",
			Why:     "When all of them answer 5xx for a moment, nothing is left to call, and the panic threshold does not help.",
			Example: "  circuit_breakers: {default: {outlier_detection: {max_ejection_percent: 100}}}\n",
			Fix:     "Leave `max_ejection_percent` at 50.",
		},
		{
			Code: "MC2208", Title: "a policy without effect: another one admits, or denies, all that it does",
			Why:     "To take it out changes nothing; to narrow it does not either.",
			Example: "  security: {authorization: {policies: [{name: wide, action: ALLOW, principals: [\"spiffe://m/*\"]}, {name: p, action: ALLOW, sources: [nexus]}]}}\n",
			Catalog: catalog,
			Fix:     "Take it out, or narrow the wider one.",
		},
		{
			Code: "MC2209", Title: "a storm of retries",
			Why:     "Each service of a chain of upstreams tries again what the next one already has: the last one of the chain may see that many times the requests of the first, just when it is in trouble.",
			Example: "  services:\n    a: {upstreams: [b]}\n    b: {upstreams: [c]}\n    c: {upstreams: [d]}\n    d: {}\n  policies: {retry: {attempts: 3}}\n",
			Fix:     "Retry at one end of the chain alone: `services.X.retry.attempts: 0` for those in the middle.",
		},
		{
			Code: "MC2210", Title: "permissive mTLS in production",
			Why:     "Whoever reaches a sidecar may call without a certificate.",
			Example: "  environments: {production: {security: {mtls: {mode: permissive}}}}\n", Environment: "production",
			Fix: "Set `security.mtls.mode: strict`.",
		},
		{
			Code: "MC2211", Title: "everybody may call everybody",
			Why:     "Authorization is off, or its default is ALLOW without a DENY.",
			Example: "  security: {authorization: {enabled: false}}\n",
			Fix:     "Turn it on, and admit callers with policies.",
		},
		{
			Code: "MC2212", Title: "an instance that is not in the mesh",
			Why:     "It has no `mesh_port`, so with strict mTLS nobody calls it.",
			Example: "  services: {nexus: {}}\n", Catalog: "services:\n  nexus: [{id: n1, address: 10.0.0.1, port: 80}]\n",
			Fix: "Run a sidecar beside it and register its port, or use `mtls.mode: permissive` until then.",
		},
		{
			Code: "MC2213", Title: "a service without a healthy instance",
			Why:     "The catalog knows the name and has nobody who is healthy. Calls are answered 503, or sent to unhealthy instances where `load_balancing.panic_threshold` says so.",
			Example: "  services: {nexus: {}}\n", Catalog: "services:\n  nexus: [{id: n1, address: 10.0.0.1, port: 80, meta: {mesh_port: \"15443\"}, health: critical}]\n",
			Fix: "Look at its health checks: `controlplane proxies --service nexus`.",
		},
		{
			Code: "MC2214", Title: "a limit that a server counts, which does not let the service ask",
			Why:     "The limited service's sidecar asks the server as any caller of the mesh does. One that is denied has no answer, and lets every request pass, unless `on_failure` is `deny`.",
			Example: "  policies: {rate_limit: {server: {service: lake}, custom: {nexus: {per: global}}}}\n  services: {lake: {protocol: grpc}}\n  security: {authorization: {policies: [{name: p, action: ALLOW, sources: [other]}]}}\n", Catalog: catalog,
			Fix: "Add an ALLOW of the limited service to the server.",
		},
		{
			Code: "MC2215", Title: "a service that `discovery.consul.select` leaves out",
			Why:     "The file names it, or one of its services calls it, and its selection of the catalog leaves it out: no proxy is told of it, and a call is answered 404 or 503.",
			Example: "  discovery: {consul: {select: {exclude: [\"la*\"]}}}\n  services: {nexus: {upstreams: [lake]}}\n", Catalog: catalog,
			Fix: "Take the name out of the file, or change `select`.",
		},
	}
}
