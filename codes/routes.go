package codes

// routes are the codes of routes, and of the subsets that they lead to.
func routes() []Entry {
	return []Entry{
		{
			Code: "MC1404", Title: "a subset that the service does not have, or a name that none can have",
			Why:     "Nobody would be in it; and a name with a dot or a bar would be cut where Envoy names clusters and statistics.",
			Example: "  services: {a: {subsets: {stable: {}}, default_subset: stabel}}\n",
			Fix:     "Name one of the service's `subsets`; name subsets with letters, digits, dashes and underscores.",
		},
		{
			Code: "MC1701", Title: "two routes of one name",
			Why:     "Logs and statistics name the route that decided.",
			Example: "  services: {a: {}}\n  routes:\n    - {name: r, service: a, match: [{path: {exact: /x}}]}\n    - {name: r, service: a}\n",
			Fix:     "Give each a name of its own.",
		},
		{
			Code: "MC1702", Title: "a route to a service of TCP, or one that leads to it",
			Why:     "Routes are of requests, and there are none.",
			Example: "  services: {a: {protocol: tcp}}\n  routes: [{name: r, service: a}]\n",
			Fix:     "Take the route out, or write the protocol that the service speaks.",
		},
		{
			Code: "MC1703", Title: "shares that are not 100 percent together, the same twice, or none",
			Why:     "What is missing would be nobody's, and Envoy would divide the shares otherwise than they are written.",
			Example: "  services: {a: {subsets: {old: {}, new: {}}}}\n  routes: [{name: r, service: a, split: [{subset: old, weight: 90}, {subset: new, weight: 5}]}]\n",
			Fix:     "Let the weights be 100 together, each subset or service once.",
		},
		{
			Code: "MC1704", Title: "a change of a header that frames or routes a message, or that sidecars write",
			Why:     "Envoy takes it, and the message is cut, never ends, goes to another host or shows an identity that nobody has.",
			Example: "  services: {a: {}}\n  routes: [{name: r, service: a, headers: {request: {set: {content-length: \"1\"}}}}]\n",
			Fix:     "Change headers of the application alone; `rewrite` changes the path and the host.",
		},
		{
			Code: "MC2117", Title: "a route that no request comes to",
			Why:     "The first that matches decides, and one before it takes all that it matches.",
			Example: "  services: {a: {}}\n  routes:\n    - {name: all, service: a}\n    - {name: x, service: a, match: [{path: {exact: /x}}]}\n",
			Fix:     "Write the narrower route first.",
		},
		{
			Code: "MC2118", Title: "a rewrite that leads a path around a DENY",
			Why:     "Policies are held where the request arrives, and see the path that it has there: what is denied under one path comes under another.",
			Example: "  services: {a: {}}\n  routes: [{name: r, service: a, match: [{path: {prefix: /admin}}], rewrite: {prefix: /x}}]\n  security: {authorization: {default_action: ALLOW, policies: [{name: p, action: DENY, destinations: [a], paths: [/admin/*]}]}}\n",
			Fix:     "Deny the path that it is rewritten to as well, or leave the denied paths out of the route.",
		},
	}
}
