package admission

import (
	"regexp"
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
)

// Matches is a StringMatcher as Envoy has it: an expression matches the whole text.
func Matches(m *matcherv3.StringMatcher, text string) bool {
	fold := func(s string) string {
		if m.GetIgnoreCase() {
			return strings.ToLower(s)
		}
		return s
	}
	switch p := m.GetMatchPattern().(type) {
	case *matcherv3.StringMatcher_Exact:
		return fold(p.Exact) == fold(text)
	case *matcherv3.StringMatcher_Prefix:
		return strings.HasPrefix(fold(text), fold(p.Prefix))
	case *matcherv3.StringMatcher_Suffix:
		return strings.HasSuffix(fold(text), fold(p.Suffix))
	case *matcherv3.StringMatcher_Contains:
		return strings.Contains(fold(text), fold(p.Contains))
	case *matcherv3.StringMatcher_SafeRegex:
		ok, err := regexp.MatchString("^(?:"+p.SafeRegex.GetRegex()+")$", text)
		return err == nil && ok
	}
	return false
}

// anything reports whether a matcher of paths matches each of them.
func anything(p *matcherv3.PathMatcher) bool { return p.GetPath().GetPrefix() == "/" }

// header is whether a request has a header as it is wanted. Without a request it
// depends.
func header(m *routev3.HeaderMatcher, req *Request) Answer {
	if req == nil {
		return Depends
	}
	return yes(req.Matches(m))
}

// Matches reports whether the request has a header as a matcher wants it.
func (r *Request) Matches(m *routev3.HeaderMatcher) bool {
	value, here := r.header(m.GetName())
	if present, ok := m.GetHeaderMatchSpecifier().(*routev3.HeaderMatcher_PresentMatch); ok {
		return (here == present.PresentMatch) != m.GetInvertMatch()
	}
	if !here && !m.GetTreatMissingHeaderAsEmpty() {
		return false // Envoy: not even an inverted one matches what is not there
	}
	return Matches(m.GetStringMatch(), value) != m.GetInvertMatch()
}

func (r *Request) header(name string) (string, bool) {
	switch name {
	case ":method":
		return r.Method, true
	case ":path":
		return r.Path, true
	case ":authority":
		return r.Authority, true
	}
	value, ok := r.Headers[strings.ToLower(name)]
	return value, ok
}

func withoutQuery(path string) string {
	if i := strings.IndexAny(path, "?#"); i >= 0 {
		return path[:i]
	}
	return path
}
