package codes

// values are the codes of single values, and of those that contradict each other.
func values() []Entry {
	return []Entry{
		{
			Code: "MC1101", Title: "no duration",
			Why:     "A number without a unit could be seconds or milliseconds.",
			Example: "  policies: {timeout: {connect: 5}}\n", Fix: "Write a unit: `250ms`, `5s`, `1m30s`, `24h`. There are no days.",
		},
		{
			Code: "MC1102", Title: "a number, or a duration, out of its range",
			Why:     "Envoy would refuse it, or take it for something else.",
			Example: "  telemetry: {tracing: {sampling_rate: 10}}\n", Fix: "`controlplane explain FIELD.PATH` says the range. A rate goes from 0 to 1: a tenth is 0.1.",
		},
		{
			Code: "MC1103", Title: "not one of the words that the key takes",
			Why:     "Words are compared as they are, with their case.",
			Example: "  load_balancing: {policy: least_requests}\n", Fix: "Write the word that the message suggests.",
		},
		{
			Code: "MC1104", Title: "not what the key takes",
			Why:     "A host, HOST:PORT, a datacenter, an absolute path, or a text without control characters is wanted.",
			Example: "  discovery: {consul: {host: \"http://consul:8500\"}}\n", Fix: "Write the value in the form that the message names; a host has no scheme and no port.",
		},
		{
			Code: "MC1105", Title: "two keys that contradict each other",
			Why:     "Whichever was taken, the other would be ignored.",
			Example: "  policies: {retry: {timeout: 3s}, timeout: {request: 2s}}\n", Fix: "Change one of both, or leave it out.",
		},
		{
			Code: "MC1207", Title: "a back-off that does not double",
			Why:     "Envoy knows no other: a random wait that doubles with every try, up to max_interval.",
			Example: "  policies: {retry: {backoff: {multiplier: 1.5}}}\n", Fix: "Write 2, or leave the key out.",
		},
		{
			Code: "MC1208", Title: "a retry condition that Envoy does not know",
			Why:     "Envoy ignores an unknown word without saying so, and nothing would be tried again.",
			Example: "  policies: {retry: {conditions: [conect-failure]}}\n", Fix: "`controlplane explain policies.retry.conditions` lists them.",
		},
		{
			Code: "MC1401", Title: "a name that no service can have",
			Why:     "A name is a segment of a SPIFFE ID and a host: letters, digits, dots, dashes and underscores, and none that the mesh keeps for itself. Hosts are compared in lower case and identities are not, so one name in two cases is an error too.",
			Example: "  services: {control-plane: {}}\n", Fix: "Choose another name, or write it in the case in which the file has it.",
		},
		{
			Code: "MC1402", Title: "two services are one in the catalog",
			Why:     "Their calls would go to the same instances with two identities.",
			Example: "  services: {a: {consul_service: x}, b: {consul_service: x}}\n", Fix: "Let one service of the file stand for each of the catalog's.",
		},
		{
			Code: "MC1403", Title: "an upstream, or a `local_bind_port`, that stands twice",
			Why:     "Envoy would refuse the second listener, and with it the whole response.",
			Example: "  services: {a: {upstreams: [b, {service: b}]}}\n", Fix: "Take one out; give each upstream of TCP a port of its own.",
		},
		{
			Code: "MC1504", Title: "a path that no request has after normalization",
			Why:     "Sidecars resolve dot segments, merge slashes and refuse encoded ones before a policy sees the path: this one would never match.",
			Example: "  telemetry: {metrics: {path: \"/metrics?x\"}}\n", Fix: "Write the path as it is after normalization: `/a/b`, or `/a/*` with a star at the end alone.",
		},
		{
			Code: "MC1601", Title: "a tag with an empty value",
			Why:     "Envoy refuses the whole listener for it.",
			Example: "  telemetry: {tracing: {tags: [{key: a, value: \"\"}]}}\n", Fix: "Write a value; `\"${V}\"` alone is filled in by each proxy, and left out where V is not set.",
		},
	}
}
