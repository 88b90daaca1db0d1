package translate

import (
	"regexp"
	"slices"

	"datapunk.dev/controlplane/policy"
)

// routesOf are the routes that a route of the file becomes: for each of its matches
// all the forms that the service's own have.
func routesOf(s *policy.Service, r *policy.Route, whole route) []route {
	says := *r
	says.Key = "" // where it stands is no part of what is sent
	whole.name, whole.says = r.Name, &says
	if r.Answers() {
		whole.to = nil
	} else {
		whole.to = sharesOf(s, r)
	}
	if r.Mirror != nil && r.Mirror.Percent > 0 {
		whole.mirror = clusterNamed(r.Mirror.Service, r.Mirror.Subset)
	}
	matches := r.Match
	if len(matches) == 0 {
		matches = []policy.RouteMatch{{}}
	}
	var all []route
	for _, m := range matches {
		one := whole
		one.match = match{path: pathOf(m), headers: m.Headers, query: m.Query, methods: m.Methods, grpc: m.GRPC != nil}
		if r.Answers() {
			all = append(all, one)
			continue
		}
		all = append(all, formsOf(one, r.Retry, r.Timeout)...)
	}
	return all
}

// sharesOf are where the requests of a route go.
func sharesOf(s *policy.Service, r *policy.Route) []weightedDestination {
	if len(r.Split) == 0 {
		return []weightedDestination{leadTo(s.Name, s.DefaultSubset, r.OnEmptySubset, 100)}
	}
	var to []weightedDestination
	for _, share := range r.Split {
		d := leadTo(share.Service, share.Subset, share.OnEmpty, share.Weight)
		d.headers = share.Headers
		to = append(to, d)
	}
	return to
}

// pathOf is the condition of a match on the path, that of gRPC too.
func pathOf(m policy.RouteMatch) policy.PathMatch {
	switch {
	case m.GRPC == nil || m.GRPC.Service == "" && m.GRPC.Method == "":
		if m.Path == (policy.PathMatch{}) {
			return policy.PathMatch{Prefix: "/"}
		}
		return m.Path
	case m.GRPC.Service == "":
		return policy.PathMatch{Regex: "/[^/]+/" + regexp.QuoteMeta(m.GRPC.Method)}
	case m.GRPC.Method == "":
		return policy.PathMatch{Prefix: "/" + m.GRPC.Service}
	default:
		return policy.PathMatch{Exact: "/" + m.GRPC.Service + "/" + m.GRPC.Method}
	}
}

// reaches are the other services that routes to a service lead to, sorted.
func reaches(s *policy.Service) []string {
	var others []string
	for _, r := range s.Routes {
		for _, share := range r.Split {
			others = append(others, share.Service)
		}
		if r.Mirror != nil {
			others = append(others, r.Mirror.Service)
		}
	}
	slices.Sort(others)
	return slices.DeleteFunc(slices.Compact(others), func(name string) bool { return name == s.Name })
}
