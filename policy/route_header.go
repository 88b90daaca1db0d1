package policy

import (
	"slices"
	"strings"

	"datapunk.dev/controlplane/yamlfile"
)

// ofMessages are the headers that frame or route a message: a proxy takes another
// value of them without a word, and the message is broken, or never ends.
func ofMessages() []string {
	return append(hopByHop(), "content-length", "host", "trailer")
}

// headerToChange is the name of a header that a route may change.
func headerToChange(request bool) parser[string] {
	return parser[string]{shape{what: "name of a header", pattern: ".", code: CodeHeader}, func(v value) (string, bool) {
		text, ok := v.filled()
		if !ok {
			return "", false
		}
		return v.changeable(text, request)
	}}
}

// changeable returns the name of a header in lower case, or says why no route may
// change it.
func (v value) changeable(text string, request bool) (string, bool) {
	name := strings.ToLower(text)
	switch {
	case strings.HasPrefix(name, ":"):
		v.fail(CodeHeader, "rewrite: {prefix: …, host: …}", "%q is no header: it is a part of the request line", text)
	case !isToken(name):
		v.fail(CodeHeader, "", "%q is no name of a header", text)
	case slices.Contains(ofMessages(), name):
		v.fail(CodeHeader, "", "%q frames or routes the message, which another value would break", text)
	case strings.HasPrefix(name, "x-envoy-"), name == "x-forwarded-client-cert", request && (slices.Contains(ofTraces(), name) || strings.HasPrefix(name, "x-b3-")):
		v.fail(CodeHeader, "a header of your own", "%q is written by sidecars", text)
	default:
		return name, true
	}
	return "", false
}

// headerValues is a map of the names and values of headers.
func headerValues(request bool) parser[map[string]string] {
	return parser[map[string]string]{shape{form: formTexts, code: CodeHeader}, func(v value) (map[string]string, bool) {
		m := v.mapping()
		if !m.present() {
			return nil, false
		}
		all, ok := make(map[string]string), true
		for _, f := range m.Fields { // names that begin with x- too, which are free elsewhere
			text, entry := f.Name, m.entry(f)
			name, good := m.keyOf(text).changeable(text, request)
			if entry.Kind != yamlfile.Scalar || entry.Tag != "!!str" {
				entry.fail(CodeType, `texts, numbers in quotes: {x-version: "1"}`, "%s is no text", text)
				ok = false
				continue
			}
			value, read := entry.text()
			if ok = ok && good && read; !ok {
				continue
			}
			if strings.ContainsAny(value, "\r\n\x00") {
				entry.fail(CodeHeader, "", "a value in several lines is no value of a header")
				ok = false
				continue
			}
			if _, twice := all[name]; twice {
				m.keyOf(text).fail(CodeHeader, "", "%q stands there already, in another case", name)
				ok = false
			}
			all[name] = value
		}
		return all, ok
	}}
}

func checkRouteHeader(s *mapping, h *HeaderMatch) bool {
	if h.Name == Authority {
		s.first("name").fail(CodeMatch, "service", "a route is of one service, whatever its host is called")
		return false
	}
	if h.Invert && h.Present != nil {
		s.first("invert").fail(CodeConflict, "present: false", "the contrary of present is present: false")
		return false
	}
	return checkHeader(s, h)
}

func checkQueryMatch(s *mapping, q *QueryMatch) bool {
	return exactlyOne(s, "exact", "prefix", "regex", "present")
}

func checkPathMatch(s *mapping, p *PathMatch) bool {
	return exactlyOne(s, "exact", "prefix", "template", "regex")
}

// exactlyOne refuses a section that has none of the keys, or several.
func exactlyOne(s *mapping, names ...string) bool {
	n := 0
	for _, name := range names {
		if s.has(name) {
			n++
		}
	}
	if n != 1 {
		last := len(names) - 1
		s.fail(CodeMatch, "", "wants exactly one of %s and %s", strings.Join(names[:last], ", "), names[last])
	}
	return n == 1
}

func checkRouteMatch(s *mapping, m *RouteMatch) bool {
	if m.GRPC != nil && s.has("path") && (m.GRPC.Service != "" || m.GRPC.Method != "") {
		s.keyOf("grpc").fail(CodeConflict, "leave the path out", "service and method of gRPC are its path")
		return false
	}
	for _, name := range []string{"methods", "headers", "query"} {
		s.checkNotEmpty(name)
	}
	return true
}

func checkShare(s *mapping, _ *Share) bool {
	if !s.has("subset", "service") {
		s.fail(CodeMissing, "subset: NAME, or service: NAME", "says nobody who is called")
		return false
	}
	return true
}

func checkRewrite(s *mapping, r *Rewrite) bool {
	switch {
	case s.has("prefix") && s.has("regex"):
		s.first("regex").fail(CodeConflict, "one of both", "a path is rewritten once")
	case s.has("substitution") && !s.has("regex"):
		s.first("substitution").fail(CodeConflict, "prefix: /", "is for what a regex has matched")
	case !s.has("prefix", "regex", "host"):
		s.fail(CodeMissing, "prefix: /", "says nothing that is rewritten")
	default:
		return true
	}
	return false
}

func checkRedirect(s *mapping, r *Redirect) bool {
	switch {
	case s.has("path") && s.has("prefix"):
		s.first("prefix").fail(CodeConflict, "one of both", "there is a whole path already")
	case !s.has("path", "prefix", "host"):
		s.fail(CodeMissing, "path: /elsewhere", "says nowhere to go: the caller would ask the same again")
	default:
		return true
	}
	return false
}

func checkAbort(s *mapping, a *Abort) bool {
	if (a.Status != 0) == (a.GRPCStatus != nil) {
		s.fail(CodeConflict, "status: 503", "wants exactly one of status and grpc_status")
		return false
	}
	return true
}
