package policy

import (
	"slices"
	"strings"
)

// Authority is the header that says which host is called.
const Authority = ":authority"

func checkHeader(s *mapping, h *HeaderMatch) bool {
	conditions := 0
	for _, name := range []string{"exact", "prefix", "suffix", "regex", "present"} {
		if s.has(name) {
			conditions++
		}
	}
	if conditions != 1 {
		s.fail(CodeMatch, "present: true, if any value will do", "wants exactly one of exact, prefix, suffix, regex and present")
		return false
	}
	return h.Name != Authority || checkAuthority(s)
}

// checkAuthority refuses conditions that a caller passes by writing the same
// host in another way: with a port, in other letters, with .mesh behind it.
func checkAuthority(s *mapping) bool {
	if s.has("regex") {
		s.first("regex").fail(CodeMatch, "exact, prefix or suffix; or destinations, which is who is called",
			"a host is compared without its port, its case and .mesh, which no expression is")
		return false
	}
	for _, name := range []string{"exact", "prefix", "suffix"} {
		v, ok := s.peek(name)
		if ok && hasPort(v.Text) {
			v.fail(CodeMatch, "leave the port out: a policy's ports are the application's", "a host is compared without its port")
			return false
		}
	}
	return true
}

// hasPort reports whether a host, or a part of one, has a colon that is not of
// an IPv6 address in its brackets.
func hasPort(host string) bool {
	if i := strings.LastIndexByte(host, ']'); i >= 0 {
		host = host[i+1:]
	} else if strings.HasPrefix(host, "[") {
		return false
	}
	return strings.Contains(host, ":")
}

// headerName reads the name of a header, in lower case as HTTP/2 has it.
func (v value) headerName() (string, bool) {
	text, ok := v.filled()
	if !ok {
		return "", false
	}
	name := strings.ToLower(text)
	switch {
	case name == ":path", name == ":method":
		v.fail(CodeMatch, "paths and methods", "%q has a key of its own", text)
		return "", false
	case name == "host":
		v.fail(CodeMatch, `name: ":authority"`, "the host header is called :authority in a proxy")
		return "", false
	case name != Authority && !isToken(name):
		v.fail(CodeMatch, "", "%q is no name of a header", text)
		return "", false
	}
	if why, hint := takenOut(name); why != "" {
		v.fail(CodeMatch, hint, "%q %s", text, why)
		return "", false
	}
	return name, true
}

// callerHeaderName is the name of a header that reaches the callee's sidecar as
// the caller wrote it: a policy on any other would load, and hold for nothing.
func (v value) callerHeaderName() (string, bool) {
	name, ok := v.headerName()
	if !ok {
		return "", false
	}
	if slices.Contains(ofTraces(), name) || strings.HasPrefix(name, "x-b3-") {
		v.fail(CodeMatch, "", "%q is written by sidecars, for traces: it is not the caller's word", v.Text)
		return "", false
	}
	return name, true
}

// ofTraces are the headers that sidecars write, or show Envoy in another form
// while they look at a request.
func ofTraces() []string {
	return []string{"x-request-id", "x-mesh-given-request-id", "x-client-trace-id", "traceparent", "tracestate", "b3"}
}

// takenOut says why no request has a header behind the caller's sidecar as it
// was written; empty if it has.
func takenOut(name string) (why, hint string) {
	switch {
	case strings.HasPrefix(name, "x-envoy-"):
		return "is Envoy's own: a sidecar takes it out of requests, or writes it itself", "a header of your own"
	case name == "x-forwarded-client-cert":
		return "is written by sidecars, from the caller's certificate", "principals, or sources"
	case slices.Contains(hopByHop(), name):
		return "is between two hops, and ends at the caller's sidecar", ""
	default:
		return "", ""
	}
}

// hopByHop are the headers of one connection: RFC 9110 section 7.6.1, what
// HTTP/2 does not have (RFC 9113 section 8.2.2), and what a proxy answers itself.
func hopByHop() []string {
	return []string{"connection", "expect", "http2-settings", "keep-alive", "proxy-connection", "te", "transfer-encoding", "upgrade"}
}
