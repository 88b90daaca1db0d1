package policy

import "time"

var routeKeys = table[Route]{"route", []row[Route]{
	{name: "name", takes: one(text(), func(r *Route) *string { return &r.Name }), required: true, hint: "logs and traces have the name", says: "a name of its own", becomes: "Route `name`"},
	{name: "service", takes: one(serviceName(), func(r *Route) *string { return &r.Service }), required: true, hint: "service: lake_service", says: "who is called", becomes: "the route configuration `outbound/X` of its callers"},
	{
		name: "match", takes: list(object(&routeMatchKeys, checkRouteMatch), func(r *Route) *[]RouteMatch { return &r.Match }), unset: "every request",
		says: "which requests: those that one of these matches. The first route of a service that matches decides; what none does goes on as without routes", becomes: "Route `match`",
	},
	{
		name: "split", takes: list(object(&shareKeys, checkShare), func(r *Route) *[]Share { return &r.Split }), unset: "where the service's other requests go",
		says: "where they go, each share by its weight; together they are 100", becomes: "Route `weighted_clusters`",
	},
	{name: "on_empty_subset", takes: one(word(Redistribute, Fail), func(r *Route) *OnEmpty { return &r.OnEmptySubset }), unset: "that of the service", says: "as there", becomes: "Route `cluster`"},
	{name: "rewrite", takes: section1(&rewriteKeys, checkRewrite, func(r *Route, v *Rewrite) { r.Rewrite = v }), unset: "none", says: "another path, or host, on the way to the service. Its policies see the path that it gets", becomes: "Route `prefix_rewrite`, `regex_rewrite`, `host_rewrite_literal`"},
	{name: "redirect", takes: section1(&redirectKeys, checkRedirect, func(r *Route, v *Redirect) { r.Redirect = v }), unset: "none", says: "an answer that sends the caller elsewhere; the query stays", becomes: "Route `redirect`"},
	{name: "direct_response", takes: section1(&responseKeys, nil, func(r *Route, v *DirectResponse) { r.Response = v }), unset: "none", says: "an answer of the proxy's own", becomes: "Route `direct_response`"},
	{name: "mirror", takes: section1(&mirrorKeys, nil, func(r *Route, v *Mirror) { r.Mirror = v }), unset: "none", says: "a copy of some requests for somebody else, whose answer nobody waits for. It has no `authorization`, `proxy-authorization` and `cookie`, and ends with the request's timeout. Calls of gRPC are copied where `timeout.request` bounds them", becomes: "Route `request_mirror_policies`"},
	{name: "headers", takes: section1(&headerEditsKeys, nil, func(r *Route, v *HeaderEdits) { r.Headers = *v }), unset: "none", says: "changes of headers", becomes: "Route `request_headers_to_add` and the like"},
	{name: "fault", takes: section1(&faultKeys, nil, func(r *Route, v *Fault) { r.Fault = v }), unset: "none", says: "what is done to requests, to see what becomes of callers. No header of a caller steers it, and what it answers is not tried again", becomes: "HTTP filter `fault`"},
	{name: "retry", takes: within[Route](&retryKeys), unset: "that of the service", says: "as there", becomes: "as there"},
	{name: "timeout", takes: within[Route](&routeTimeoutKeys), unset: "that of the service", says: "`request`, which holds for gRPC too, and `stream_idle`", becomes: "as there"},
	{name: "sticky", takes: section1(&stickyKeys, checkSticky, func(r *Route, v *Sticky) { r.Sticky = v }), unset: "none: each request for itself", says: "whoever comes again has the share of a `split` that they had. Between two shares, an edit of the weights moves only as many as it has to, one way", becomes: "Route `hash_policy`, `weighted_clusters.use_hash_policy`"},
	{name: "hash_policy", later: true},
	{
		name: "hedging", takes: one(boolean(), func(r *Route) *bool { return &r.Hedging }), def: "false",
		says:    "`true`: a try that has no answer within `retry.timeout` goes on while the next one begins elsewhere, and the first good answer is the answer. The service may do the work of each",
		becomes: "Route `hedge_policy`",
	},
	{name: "cors", takes: section1(&corsKeys, checkCORS, func(r *Route, v *CORS) { r.CORS = v }), unset: "none: the service's own answers", says: "which pages of other origins a browser lets call it. The caller's sidecar answers preflights; those of other origins too, without a word that allows it", becomes: "HTTP filter `cors`"},
	{name: "rate_limit", later: true},
}}

var routeMatchKeys = table[RouteMatch]{"route_match", []row[RouteMatch]{
	{name: "path", takes: section1(&pathMatchKeys, checkPathMatch, func(m *RouteMatch, v *PathMatch) { m.Path = *v }), unset: "any", says: "the path, without its query: exactly one of the four", becomes: "`path`, `path_separated_prefix`, `path_match_policy`, `safe_regex`"},
	{name: "methods", takes: list(method(), func(m *RouteMatch) *[]string { return &m.Methods }), unset: "any", says: "in capital letters", becomes: "header `:method`"},
	{name: "headers", takes: list(object(&routeHeaderKeys, checkRouteHeader), func(m *RouteMatch) *[]HeaderMatch { return &m.Headers }), unset: "any", says: "all of these; of a header in several lines one that matches is enough", becomes: "`headers`"},
	{name: "query", takes: list(object(&queryMatchKeys, checkQueryMatch), func(m *RouteMatch) *[]QueryMatch { return &m.Query }), unset: "any", says: "all of these parameters, as they are written in the path: not decoded, the first of a name", becomes: "`query_parameters`"},
	{name: "grpc", takes: section1(&grpcMatchKeys, nil, func(m *RouteMatch, v *GRPCMatch) { m.GRPC = v }), unset: "any request", says: "calls of gRPC; `{}`: all of them", becomes: "`grpc`, and the path"},
}}

var pathMatchKeys = table[PathMatch]{"path_match", []row[PathMatch]{
	{name: "exact", takes: one(routePath(), func(p *PathMatch) *string { return &p.Exact }), says: "the whole path"},
	{name: "prefix", takes: one(routePath(), func(p *PathMatch) *string { return &p.Prefix }), says: "the path and all below it: `/api` and `/api/` are `/api` and `/api/x`, and not `/apix`"},
	{name: "template", takes: one(pathTemplate(), func(p *PathMatch) *string { return &p.Template }), says: "`{name}` and `*` are one segment, `**` at the end any number of them"},
	{name: "regex", takes: one(regex(), func(p *PathMatch) *string { return &p.Regex }), says: "the whole path, in RE2's syntax"},
}}

var routeHeaderKeys = table[HeaderMatch]{"route_header", append([]row[HeaderMatch]{
	{name: "name", takes: one(headerName(), func(h *HeaderMatch) *string { return &h.Name }), required: true, says: "its name, in any case"},
	{name: "invert", takes: one(boolean(), func(h *HeaderMatch) *bool { return &h.Invert }), def: "false", says: "`true`: requests that it does not match, those without the header too"},
}, headerKeys.rows[1:]...)}

var queryMatchKeys = table[QueryMatch]{"query_match", []row[QueryMatch]{
	{name: "name", takes: one(text(), func(q *QueryMatch) *string { return &q.Name }), required: true, says: "its name"},
	{name: "exact", takes: one(anyText(), func(q *QueryMatch) *string { q.Exact = new(string); return q.Exact }), says: "the whole value"},
	{name: "prefix", takes: one(text(), func(q *QueryMatch) *string { q.Prefix = new(string); return q.Prefix }), says: "what the value begins with"},
	{name: "regex", takes: one(regex(), func(q *QueryMatch) *string { q.Regex = new(string); return q.Regex }), says: "the whole value, in RE2's syntax"},
	{name: "present", takes: one(boolean(), func(q *QueryMatch) *bool { q.Present = new(bool); return q.Present }), says: "whether the query has it"},
}}

var grpcMatchKeys = table[GRPCMatch]{"grpc_match", []row[GRPCMatch]{
	{name: "service", takes: one(grpcName(), func(g *GRPCMatch) *string { return &g.Service }), unset: "any", says: "with its package: `lake.v1.Lake`"},
	{name: "method", takes: one(grpcName(), func(g *GRPCMatch) *string { return &g.Method }), unset: "any", says: "the method"},
}}

var shareKeys = table[Share]{"share", []row[Share]{
	{name: "subset", takes: one(text(), func(s *Share) *string { return &s.Subset }), unset: "the service's default", says: "a subset of the service, or of `service`"},
	{name: "service", takes: one(serviceName(), func(s *Share) *string { return &s.Service }), unset: "that of the route", says: "another service"},
	{name: "weight", takes: one(whole(0, 100), func(s *Share) *uint32 { return &s.Weight }), unset: "100, where it is the only one", says: "percent of the requests"},
	{name: "headers", takes: section1(&headerEditsKeys, nil, func(s *Share, v *HeaderEdits) { s.Headers = *v }), unset: "none", says: "changes of headers, of this share alone"},
}}

var rewriteKeys = table[Rewrite]{"rewrite", []row[Rewrite]{
	{name: "prefix", takes: one(routePath(), func(r *Rewrite) *string { return &r.Prefix }), unset: "none", says: "in the place of the `exact` or `prefix` that matched"},
	{name: "regex", takes: one(regex(), func(r *Rewrite) *string { return &r.Regex }), unset: "none", says: "all of the path that it matches is replaced"},
	{name: "substitution", takes: one(anyText(), func(r *Rewrite) *string { return &r.Substitution }), unset: "empty", says: "by this; `\\1` is the first group. The path that it gives has to begin with `/`"},
	{name: "host", takes: one(host(), func(r *Rewrite) *string { return &r.Host }), unset: "the caller's", says: "the host that the service sees"},
}}

var redirectKeys = table[Redirect]{"redirect", []row[Redirect]{
	{name: "path", takes: one(routePath(), func(r *Redirect) *string { return &r.Path }), unset: "the same", says: "another path"},
	{name: "prefix", takes: one(routePath(), func(r *Redirect) *string { return &r.Prefix }), unset: "the same", says: "in the place of the `exact` or `prefix` that matched"},
	{name: "host", takes: one(host(), func(r *Redirect) *string { return &r.Host }), unset: "the same", says: "another host"},
	{name: "status", takes: redirectStatus(), def: "301", says: "301, 302, 303, 307 or 308"},
}}

var responseKeys = table[DirectResponse]{"direct_response", []row[DirectResponse]{
	{name: "status", takes: one(whole(200, 599), func(r *DirectResponse) *uint32 { return &r.Status }), required: true, hint: "status: 503", says: "the status"},
	{name: "body", takes: one(responseBody(), func(r *DirectResponse) *string { return &r.Body }), unset: "empty", says: "the body, at most 4096 bytes"},
}}

var mirrorKeys = table[Mirror]{"mirror", []row[Mirror]{
	{name: "service", takes: one(serviceName(), func(m *Mirror) *string { return &m.Service }), unset: "that of the route", says: "who is sent the copy"},
	{name: "subset", takes: one(text(), func(m *Mirror) *string { return &m.Subset }), unset: "its default", says: "a subset of it"},
	{name: "percent", takes: one(percentage(), func(m *Mirror) *float64 { return &m.Percent }), def: "100", says: "how many of the requests, in steps of 0.0001"},
}}

var headerEditsKeys = table[HeaderEdits]{"header_edits", []row[HeaderEdits]{
	{name: "request", takes: section1(&requestEditKeys, nil, func(h *HeaderEdits, v *HeaderEdit) { h.Request = *v }), unset: "none", says: "on the way to the service"},
	{name: "response", takes: section1(&responseEditKeys, nil, func(h *HeaderEdits, v *HeaderEdit) { h.Response = *v }), unset: "none", says: "on the way back"},
}}

// A value is what it says: no part of it means anything to a proxy.
var requestEditKeys = table[HeaderEdit]{"request_header_edit", []row[HeaderEdit]{
	{name: "set", takes: one(headerValues(true), func(h *HeaderEdit) *map[string]string { return &h.Set }), unset: "none", says: "names and values, in the place of what is there"},
	{name: "add", takes: one(headerValues(true), func(h *HeaderEdit) *map[string]string { return &h.Add }), unset: "none", says: "names and values, beside what is there"},
	{name: "remove", takes: list(headerToChange(true), func(h *HeaderEdit) *[]string { return &h.Remove }), unset: "none", says: "names. What frames or routes a message, and what sidecars write, is none that may be changed"},
}}

var responseEditKeys = table[HeaderEdit]{"response_header_edit", []row[HeaderEdit]{
	{name: "set", takes: one(headerValues(false), func(h *HeaderEdit) *map[string]string { return &h.Set }), unset: "none", says: "names and values, in the place of what is there"},
	{name: "add", takes: one(headerValues(false), func(h *HeaderEdit) *map[string]string { return &h.Add }), unset: "none", says: "names and values, beside what is there"},
	{name: "remove", takes: list(headerToChange(false), func(h *HeaderEdit) *[]string { return &h.Remove }), unset: "none", says: "names"},
}}

var faultKeys = table[Fault]{"fault", []row[Fault]{
	{name: "delay", takes: section1(&delayKeys, nil, func(f *Fault, v *Delay) { f.Delay = v }), unset: "none", says: "before they go on. The request's timeout does not cover it"},
	{name: "abort", takes: section1(&abortKeys, checkAbort, func(f *Fault, v *Abort) { f.Abort = v }), unset: "none", says: "an answer in the place of the service"},
}}

var stickyKeys = table[Sticky]{"sticky", []row[Sticky]{
	{name: "header", takes: one(headerName(), func(s *Sticky) *string { return &s.Header }), unset: "none", says: "a header whose value tells callers apart; those without it are each for themselves. One of both. It is what picks the instance too, where the service has a `hash_policy`, which does not count on this route"},
	{name: "cookie", takes: one(cookieName(), func(s *Sticky) *string { return &s.Cookie }), unset: "none", says: "a cookie, which the caller's sidecar gives to those who have none, for the first request already", becomes: "a Lua filter of the route"},
	{name: "ttl", takes: one(durationUpTo(time.Second, 365*24*time.Hour), func(s *Sticky) *time.Duration { return &s.TTL }), unset: "until the browser is closed", says: "how long the cookie lasts"},
}}

var corsKeys = table[CORS]{"cors", []row[CORS]{
	{name: "allow_origins", takes: list(origin(), func(c *CORS) *[]string { return &c.AllowOrigins }), required: true, hint: "allow_origins: [https://shop.example]", says: "origins as browsers send them; `https://*.shop.example` is every host below it, `\"*\"` every page"},
	{name: "allow_methods", takes: list(method(), func(c *CORS) *[]string { return &c.AllowMethods }), unset: "GET, HEAD and POST, as browsers have it", says: "methods"},
	{name: "allow_headers", takes: list(corsHeader(), func(c *CORS) *[]string { return &c.AllowHeaders }), unset: "none", says: "headers that a page may send"},
	{name: "expose_headers", takes: list(corsHeader(), func(c *CORS) *[]string { return &c.ExposeHeaders }), unset: "none", says: "headers of the answer that a page may read"},
	{name: "max_age", takes: one(durationUpTo(0, 24*time.Hour), func(c *CORS) *time.Duration { c.MaxAge = new(time.Duration); return c.MaxAge }), unset: "the browser's own", says: "how long a browser need not ask again, in whole seconds"},
	{name: "allow_credentials", takes: one(boolean(), func(c *CORS) *bool { return &c.AllowCredentials }), def: "false", says: "cookies and the like; not together with `\"*\"`"},
}}

var delayKeys = table[Delay]{"delay", []row[Delay]{
	{name: "duration", takes: one(durationUpTo(time.Millisecond, time.Hour), func(d *Delay) *time.Duration { return &d.Duration }), required: true, hint: "duration: 2s", says: "how long"},
	{name: "percent", takes: one(percentage(), func(d *Delay) *float64 { return &d.Percent }), def: "100", says: "of how many requests, in steps of 0.0001"},
}}

var abortKeys = table[Abort]{"abort", []row[Abort]{
	{name: "status", takes: one(whole(200, 599), func(a *Abort) *uint32 { return &a.Status }), unset: "none", says: "of HTTP. One of both"},
	{name: "grpc_status", takes: one(whole(1, 16), func(a *Abort) *uint32 { a.GRPCStatus = new(uint32); return a.GRPCStatus }), unset: "none", says: "of gRPC; a request of plain HTTP is not aborted"},
	{name: "percent", takes: one(percentage(), func(a *Abort) *float64 { return &a.Percent }), def: "100", says: "of how many requests, in steps of 0.0001"},
}}

var routeTimeoutKeys = table[Timeout]{"route_timeout", []row[Timeout]{
	{
		name: "request", unset: "that of the service", takes: one(duration(0), func(t *Timeout) *time.Duration { t.Request = new(time.Duration); return t.Request }),
		says: "a whole request, with its body; 0s: none", becomes: "Route `timeout`",
	},
	{name: "stream_idle", takes: one(duration(0), func(t *Timeout) *time.Duration { return &t.StreamIdle }), unset: "that of the service", says: "a stream on which nothing moves; 0s: never", becomes: "Route `idle_timeout`"},
	{name: "max_stream_duration", takes: one(duration(0), func(t *Timeout) *time.Duration { return &t.MaxStream }), unset: "that of the service", says: "the age at which a request or stream is ended; 0s: never. Of this and the route's own `request` the shorter holds", becomes: "Route `max_stream_duration`"},
}}
