package codes

// warnings are what to know of a file that loads, found in the file alone.
func warnings() []Entry {
	return []Entry{
		{
			Code: "MC2102", Title: "a variable is not set, and there is no default",
			Why:     "It is replaced by nothing.",
			Example: "  version: \"v${NOT_SET}\"\n", Fix: "Set it where the control plane runs, or write `${V:-default}`; `${V:-}` says that empty is meant.",
		},
		{
			Code: "MC2103", Title: "few retries at one time",
			Why:     "`max_retries` is of each proxy, to the whole service, at one time, and not of one request. With fewer than 10, requests are lost when an instance dies under load.",
			Example: "  circuit_breakers: {default: {max_retries: 3}}\n", Fix: "Leave the key out (1024); how often one request is tried again is `policies.retry.attempts`.",
		},
		{
			Code: "MC2104", Title: "a POST is retried though the application may have acted on it",
			Why:     "A second try after a lost answer may do a thing twice.",
			Example: "  policies: {retry: {conditions: [5xx]}}\n", Fix: "Limit `retry.methods` to what may be repeated, or the conditions to `connect-failure` and `reset-before-request`.",
		},
		{
			Code: "MC2106", Title: "certificates that are replaced every few minutes",
			Why:     "Each replacement costs the control plane a signature, and a short outage of it proxies their certificates.",
			Example: "  security: {mtls: {cert_rotation: 20s, cert_ttl: 1m}}\n", Fix: "Let `cert_rotation` be hours.",
		},
		{
			Code: "MC2107", Title: "a key that has no effect here",
			Why:     "What another key says makes it meaningless.",
			Example: "  load_balancing: {hash_policy: [{header: a}]}\n", Fix: "Take it out, or set the key that the message names.",
		},
		{
			Code: "MC2108", Title: "a policy, or the absence of one, that denies everything",
			Why:     "Every call between services is answered 403.",
			Example: "  security: {authorization: {default_action: ALLOW, policies: [{name: p, action: DENY}]}}\n",
			Fix:     "Add an ALLOW of those who may call, or conditions to the DENY.",
		},
		{
			Code: "MC2109", Title: "a principal of another trust domain",
			Why:     "The mesh's authority gives nobody such an identity.",
			Example: "  security: {mtls: {trust_domain: a}, authorization: {policies: [{name: p, action: ALLOW, principals: [\"spiffe://a/x\", \"spiffe://b/x\"]}]}}\n",
			Fix:     "Write the mesh's own trust domain, or use `sources`.",
		},
		{
			Code: "MC2111", Title: "a request may end before its retries",
			Why:     "The timeout of the request is over all of its tries.",
			Example: "  policies: {retry: {attempts: 3, timeout: 2s}, timeout: {request: 5s}}\n",
			Fix:     "Raise `timeout.request` (left out, it is long enough), or lower `retry.timeout`, `retry.backoff.retry_after` or `attempts`.",
		},
		{
			Code: "MC2112", Title: "plaintext callers have no identity",
			Why:     "While mTLS is permissive they are served, and denied by every policy that names callers.",
			Example: "  security: {mtls: {mode: permissive}, authorization: {policies: [{name: p, action: ALLOW, sources: [a]}]}}\n",
			Fix:     "Set `mode: strict` once every caller has a sidecar.",
		},
		{
			Code: "MC2113", Title: "a port that a sidecar has for something else",
			Why:     "The second listener is left out.",
			Example: "  services: {a: {upstreams: [{service: b, local_bind_port: 15001}]}, b: {protocol: tcp}}\n", Fix: "Choose another `local_bind_port`.",
		},
		{
			Code: "MC2114", Title: "a DENY with conditions on HTTP, for a service of TCP",
			Why:     "They are ignored there, so it denies more than they say.",
			Example: "  services: {db: {protocol: tcp}}\n  security: {authorization: {default_action: ALLOW, policies: [{name: p, action: DENY, destinations: [db], methods: [GET]}]}}\n",
			Fix:     "Leave the service out with `not_destinations`, or write a policy of callers alone for it.",
		},
		{
			Code: "MC2115", Title: "a policy that excepts callers of a pattern, for a service of TCP",
			Why:     "TCP callers are admitted by a list of names, which cannot except anybody: of the others only services of the file, of the catalog and of connected proxies are admitted.",
			Example: "  services: {db: {protocol: tcp}}\n  security: {authorization: {policies: [{name: p, action: ALLOW, principals: [\"spiffe://m/*\"], not_sources: [x]}]}}\n",
			Fix:     "Name those who may call with `sources`.",
		},
		{
			Code: "MC2116", Title: "a policy by path for a service that takes encoded slashes",
			Why:     "It compares them as they are, and the application may decode them: `/admin%2Fx` is none of `/admin/*`.",
			Example: "  services: {a: {encoded_slashes: keep}}\n  security: {authorization: {default_action: ALLOW, policies: [{name: p, action: DENY, destinations: [a], paths: [/admin/*]}]}}\n",
			Fix:     "Leave `encoded_slashes` out, unless the application takes a path apart before it decodes it.",
		},
	}
}
