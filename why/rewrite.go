package why

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
)

// rewritten is a request as a route hands it on.
func rewritten(r request, route *routev3.Route, action *routev3.RouteAction) (request, error) {
	path, err := rewritePath(r, route.GetMatch(), action.GetPrefixRewrite(), action.GetRegexRewrite())
	if err != nil {
		return r, err
	}
	r.Path = path
	if host := action.GetHostRewriteLiteral(); host != "" {
		r.Authority = host
	}
	return r, nil
}

// rewritePath is the path with something in the place of the prefix that matched, or of
// what an expression finds in it. The query stays.
func rewritePath(r request, m *routev3.RouteMatch, prefix string, regex *matcherv3.RegexMatchAndSubstitute) (string, error) {
	path, query := r.withoutQuery(), r.query()
	switch {
	case regex != nil:
		expression, err := regexp.Compile(regex.GetPattern().GetRegex())
		if err != nil {
			return "", fmt.Errorf("the rewrite of a route: %w", err)
		}
		path = expression.ReplaceAllString(path, goSubstitution(regex.GetSubstitution()))
	case prefix != "":
		matched := path
		switch p := m.GetPathSpecifier().(type) {
		case *routev3.RouteMatch_Prefix:
			matched = p.Prefix
		case *routev3.RouteMatch_PathSeparatedPrefix:
			matched = p.PathSeparatedPrefix
		}
		path = prefix + strings.TrimPrefix(path, matched)
	}
	if query != "" {
		path += "?" + query
	}
	return path, nil
}

// goSubstitution writes RE2's \1 as ${1}.
func goSubstitution(s string) string {
	s = strings.ReplaceAll(s, "$", "$$")
	return backReference.ReplaceAllString(s, "$${$1}")
}

var backReference = regexp.MustCompile(`\\([0-9])`)

// edited is a request with the headers that a route, a share of it, or a configuration
// takes away and puts in. Envoy takes away first, then replaces, and then adds.
func edited(r request, add []*corev3.HeaderValueOption, remove []string) request {
	r.Headers = maps.Clone(r.Headers)
	if r.Headers == nil {
		r.Headers = make(map[string]string)
	}
	for _, name := range remove {
		delete(r.Headers, strings.ToLower(name))
	}
	set, beside := make(map[string]string), make(map[string][]string)
	for _, o := range add {
		name, value := strings.ToLower(o.GetHeader().GetKey()), literal(o.GetHeader().GetValue())
		_, here := r.Headers[name]
		switch o.GetAppendAction() {
		case corev3.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD:
			beside[name] = append(beside[name], value)
		case corev3.HeaderValueOption_ADD_IF_ABSENT:
			if !here {
				beside[name] = append(beside[name], value)
			}
		case corev3.HeaderValueOption_OVERWRITE_IF_EXISTS:
			if here {
				set[name] = value
			}
		default:
			set[name] = value
		}
	}
	maps.Copy(r.Headers, set)
	for name, values := range beside {
		if old, here := r.Headers[name]; here {
			values = slices.Insert(values, 0, old)
		}
		r.Headers[name] = strings.Join(values, ",")
	}
	return r
}

// literal is a value as it is written: a percent sign stands there twice.
func literal(value string) string { return strings.ReplaceAll(value, "%%", "%") }

// location is where a redirect leads: the host, if it names one, and the path.
func location(r request, route *routev3.Route) (string, error) {
	a := route.GetRedirect()
	path, err := rewritePath(r, route.GetMatch(), a.GetPrefixRewrite(), a.GetRegexRewrite())
	if err != nil {
		return "", err
	}
	if to := a.GetPathRedirect(); to != "" {
		path = to
		if query := r.query(); query != "" && !strings.Contains(to, "?") {
			path += "?" + query
		}
	}
	host := r.Authority
	if a.GetHostRedirect() != "" {
		host = a.GetHostRedirect()
	}
	return "http://" + host + path, nil
}

// redirectStatus is the status of a redirect.
func redirectStatus(c routev3.RedirectAction_RedirectResponseCode) int {
	switch c {
	case routev3.RedirectAction_FOUND:
		return 302
	case routev3.RedirectAction_SEE_OTHER:
		return 303
	case routev3.RedirectAction_TEMPORARY_REDIRECT:
		return 307
	case routev3.RedirectAction_PERMANENT_REDIRECT:
		return 308
	default:
		return 301
	}
}
