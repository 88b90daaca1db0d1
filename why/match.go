package why

import (
	"fmt"
	"regexp"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	uritemplatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/path/match/uri_template/v3"

	"datapunk.dev/controlplane/admission"
)

// matches reports whether a route takes a request. What is not known is an error, and
// not a guess.
func matches(m *routev3.RouteMatch, r request) (bool, error) {
	ok, err := matchesPath(m, r.withoutQuery())
	if err != nil || !ok {
		return false, err
	}
	if m.GetGrpc() != nil && !r.grpc() {
		return false, nil
	}
	for _, h := range m.GetHeaders() {
		if !r.Matches(h) {
			return false, nil
		}
	}
	for _, q := range m.GetQueryParameters() {
		if !matchesQuery(q, r.query()) {
			return false, nil
		}
	}
	return true, nil
}

func matchesPath(m *routev3.RouteMatch, path string) (bool, error) {
	switch p := m.GetPathSpecifier().(type) {
	case *routev3.RouteMatch_Prefix:
		return strings.HasPrefix(path, p.Prefix), nil
	case *routev3.RouteMatch_Path:
		return path == p.Path, nil
	case *routev3.RouteMatch_PathSeparatedPrefix:
		return path == p.PathSeparatedPrefix || strings.HasPrefix(path, p.PathSeparatedPrefix+"/"), nil
	case *routev3.RouteMatch_SafeRegex:
		whole, err := regexp.Compile("^(?:" + p.SafeRegex.GetRegex() + ")$")
		if err != nil {
			return false, err
		}
		return whole.MatchString(path), nil
	case *routev3.RouteMatch_PathMatchPolicy:
		return matchesTemplate(p.PathMatchPolicy, path)
	}
	return false, fmt.Errorf("a route matches paths by %T, which is not known here", m.GetPathSpecifier())
}

// matchesTemplate matches a path by its segments: {name} and * are one, ** any number.
func matchesTemplate(ext *corev3.TypedExtensionConfig, path string) (bool, error) {
	var config uritemplatev3.UriTemplateMatchConfig
	if err := ext.GetTypedConfig().UnmarshalTo(&config); err != nil {
		return false, fmt.Errorf("%s: %w", ext.GetName(), err)
	}
	wanted, got := strings.Split(config.GetPathTemplate(), "/"), strings.Split(path, "/")
	for i, segment := range wanted {
		if segment == "**" || strings.HasPrefix(segment, "{") && strings.HasSuffix(segment, "=**}") {
			return i < len(got), nil // which stands at the end alone
		}
		if i >= len(got) {
			return false, nil
		}
		if segment == "*" || strings.HasPrefix(segment, "{") && strings.HasSuffix(segment, "}") {
			if got[i] == "" {
				return false, nil
			}
		} else if segment != got[i] {
			return false, nil
		}
	}
	return len(wanted) == len(got), nil
}

// matchesQuery matches the first value of a parameter, as it stands in the query.
func matchesQuery(m *routev3.QueryParameterMatcher, query string) bool {
	value, here := "", false
	for part := range strings.SplitSeq(query, "&") {
		name, v, _ := strings.Cut(part, "=")
		if name == m.GetName() {
			value, here = v, true
			break
		}
	}
	switch q := m.GetQueryParameterMatchSpecifier().(type) {
	case *routev3.QueryParameterMatcher_PresentMatch:
		return here == q.PresentMatch
	case *routev3.QueryParameterMatcher_StringMatch:
		return here && admission.Matches(q.StringMatch, value)
	}
	return here
}

// condition is a match in words.
func condition(m *routev3.RouteMatch) string {
	var all []string
	switch p := m.GetPathSpecifier().(type) {
	case *routev3.RouteMatch_Prefix:
		if p.Prefix != "/" {
			all = append(all, "prefix "+p.Prefix)
		}
	case *routev3.RouteMatch_Path:
		all = append(all, "path "+p.Path)
	case *routev3.RouteMatch_PathSeparatedPrefix:
		all = append(all, "prefix "+p.PathSeparatedPrefix)
	case *routev3.RouteMatch_SafeRegex:
		all = append(all, "regex "+p.SafeRegex.GetRegex())
	case *routev3.RouteMatch_PathMatchPolicy:
		all = append(all, "a template of its path")
	}
	if m.GetGrpc() != nil {
		all = append(all, "gRPC")
	}
	for _, h := range m.GetHeaders() {
		all = append(all, "header "+h.GetName())
	}
	for _, q := range m.GetQueryParameters() {
		all = append(all, "query "+q.GetName())
	}
	if len(all) == 0 {
		return "every request"
	}
	return strings.Join(all, ", ")
}
