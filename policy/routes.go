package policy

import (
	"slices"
	"strings"

	"datapunk.dev/controlplane/spelling"
	"datapunk.dev/controlplane/yamlfile"
)

// section1 is the kind of a key that is one section, read by a table of its own
// and handed on where it is there. What check says concerns several of its keys.
func section1[T, V any](t *table[V], check func(*mapping, *V) bool, set func(*T, *V)) kind[T] {
	return kind[T]{within[T](t).shape, func(v value, to *T) bool {
		m := v.mapping()
		if !m.present() {
			return v.node == nil || v.Kind == yamlfile.Null
		}
		var read V
		t.defaults(&read)
		ok := t.read(m, &read)
		if check != nil {
			ok = check(m, &read) && ok
		}
		set(to, &read)
		return ok
	}}
}

// routesOf are the routes of the file by the service that they are of, which
// need not be read well.
func (d *decoder) routes(s *mapping, m *Mesh) {
	lines := make(map[string]int)
	var read []value
	if v, ok := s.peek("routes"); ok {
		_, _ = v.list() // which says what is none
	}
	for _, item := range s.items("routes") {
		r, v := d.route(item, m)
		if r == nil {
			continue
		}
		at := v.first("name")
		if line, twice := lines[r.Name]; twice {
			at.fail(CodeRouteName, "", "a route %q stands in line %d already", r.Name, line)
		}
		lines[r.Name] = at.at.Line
		m.services[r.Service].Routes = append(m.services[r.Service].Routes, *r)
		m.Routes++
		read = append(read, item)
	}
	d.settleRoutes(m)
	d.checkHidden(m, read)
	d.checkRewrites(m, read)
}

// route reads one route. It is nil if nothing can be said of it.
func (d *decoder) route(item value, m *Mesh) (*Route, *mapping) {
	v := item.mapping()
	r := &Route{Key: item.short()}
	if !v.present() {
		return nil, v
	}
	routeKeys.read(v, r)
	callee, ok := m.services[r.Service]
	if !ok || r.Name == "" { // which is said, with what is wrong in the rest of it
		unknown := m.Service(r.Service).clone()
		d.retry(v.section("retry"), unknown)
		routeTimeoutKeys.read(v.section("timeout"), &unknown.Timeout)
		return nil, v
	}
	if callee.Protocol == TCP {
		v.first("service").fail(CodeRoute, "", "%s speaks TCP, which has no requests to route", r.Service)
		return nil, v
	}
	settings := callee.clone()
	d.retry(v.section("retry"), settings)
	timeout := v.section("timeout")
	routeTimeoutKeys.read(timeout, &settings.Timeout)
	if timeout.has("request") || v.section("retry").present() {
		d.checkTimes(settings, timeout, v.section("retry"))
	}
	if timeout.has("request") {
		settings.Timeout.RequestOfRoute = true
	}
	settings = finished(settings)
	r.Retry, r.Timeout = settings.Retry, settings.Timeout
	if v.section("retry").has("timeout") {
		r.Retry.TimeoutOfService = true
	}
	if r.OnEmptySubset == "" {
		r.OnEmptySubset = callee.OnEmptySubset
	}
	d.checkActions(v, r)
	d.checkHedging(v, r)
	d.checkPreflight(v, r)
	d.split(v, r, m)
	d.checkStickyRoute(v, r)
	d.mirror(v, r, m)
	return r, v
}

// checkActions refuses what a route cannot do at one time.
func (d *decoder) checkActions(v *mapping, r *Route) {
	var does []string
	for _, name := range []string{"redirect", "direct_response", "split"} {
		if v.has(name) {
			does = append(does, name)
		}
	}
	if len(does) > 1 {
		v.keyOf(does[1]).fail(CodeConflict, "a route of its own for each", "a route has one of %s and %s", does[0], does[1])
	}
	if r.Answers() {
		for _, name := range []string{"rewrite", "mirror", "retry", "timeout", "on_empty_subset", "hedging"} {
			if v.has(name) {
				v.keyOf(name).fail(CodeNoEffect, "", "has no effect: %s answers by itself", r.Name)
			}
		}
	}
	prefixed := len(r.Match) > 0 && !slices.ContainsFunc(r.Match, func(m RouteMatch) bool {
		return m.Path.Template != "" || m.Path.Regex != "" || m.GRPC != nil && *m.GRPC != (GRPCMatch{})
	})
	if r.Rewrite != nil && r.Rewrite.Prefix != "" && len(r.Match) > 0 && !prefixed {
		v.section("rewrite").first("prefix").fail(CodeConflict, "rewrite: {regex: …, substitution: …}", "takes the place of an exact path or of a prefix, and a match of this route has none")
	}
	if r.Redirect != nil && r.Redirect.Prefix != "" && len(r.Match) > 0 && !prefixed {
		v.section("redirect").first("prefix").fail(CodeConflict, "path: …", "takes the place of an exact path or of a prefix, and a match of this route has none")
	}
}

// split settles where the shares of a route go.
func (d *decoder) split(v *mapping, r *Route, m *Mesh) {
	if len(r.Split) == 0 {
		if s, ok := v.peek("split"); ok && s.Kind == yamlfile.List && len(s.Items) == 0 {
			s.fail(CodeSplit, "leave the key out", "is empty: nobody would be called")
		}
		return
	}
	items := v.items("split")
	sum := uint32(0)
	for i := range r.Split {
		share := &r.Split[i]
		if len(r.Split) == 1 && !items[i].mapping().has("weight") {
			share.Weight = 100
		}
		sum += share.Weight
		share.Service, share.Subset, share.OnEmpty = d.target(items[i].mapping(), r, m, share.Service, share.Subset)
	}
	if sum != 100 {
		v.keyOf("split").fail(CodeSplit, "the weights are percent of the requests", "the weights add up to %d, not to 100", sum)
	}
	for i, s := range r.Split {
		for _, o := range r.Split[:i] {
			if o.Service == s.Service && o.Subset == s.Subset {
				items[i].fail(CodeSplit, "one share with both weights", "the same stands in this split already")
			}
		}
	}
}

// target is the service and the subset that a share or a mirror names.
func (d *decoder) target(v *mapping, r *Route, m *Mesh, service, subset string) (string, string, OnEmpty) {
	onEmpty := r.OnEmptySubset
	if service == "" || service == r.Service {
		service = r.Service
	} else {
		onEmpty = m.services[service].OnEmptySubset
	}
	to := m.services[service]
	switch {
	case to.Protocol == TCP:
		v.first("service").fail(CodeRoute, "", "%s speaks TCP, and cannot be sent requests", service)
	case subset != "" && to.Subset(subset) == nil:
		v.first("subset").fail(CodeSubset, spelling.DidYouMean(subset, to.subsetNames()), "%s has no subset %q", service, subset)
	case subset == "":
		subset = to.DefaultSubset
	}
	return service, subset, onEmpty
}

func (d *decoder) mirror(v *mapping, r *Route, m *Mesh) {
	if r.Mirror == nil {
		return
	}
	s := v.section("mirror")
	if !s.has("service", "subset") {
		s.fail(CodeMissing, "service: NAME, or subset: NAME", "says nobody who is sent the copies")
		return
	}
	r.Mirror.Service, r.Mirror.Subset, _ = d.target(s, r, m, r.Mirror.Service, r.Mirror.Subset)
	switch {
	case r.Timeout.Request != nil && *r.Timeout.Request == 0:
		s.fail(CodeConflict, "timeout: {request: 15s}", "wants a timeout.request: who gets copies and does not read them would hold up the callers")
	case s.has("percent") && r.Mirror.Percent == 0:
		s.first("percent").fail(CodeNoEffect, "", "has no effect: nothing is copied")
	}
	if len(r.Split) == 0 && r.Mirror.Service == r.Service && r.Mirror.Subset == m.services[r.Service].DefaultSubset {
		s.first("service", "subset").fail(CodeNoEffect, "", "copies go to those who have the requests already")
	}
}

// settleRoutes notes for each service in front of which of its subsets there has to
// be somebody else, and for how many tries.
func (d *decoder) settleRoutes(m *Mesh) {
	lead := func(service, subset string, onEmpty OnEmpty, retries uint32) {
		s := m.services[service]
		if subset == "" || onEmpty != Redistribute {
			return
		}
		if !slices.Contains(s.Fallbacks, subset) {
			s.Fallbacks = append(s.Fallbacks, subset)
			slices.Sort(s.Fallbacks)
		}
		s.FallbackTries = max(s.FallbackTries, retries+1)
	}
	for _, name := range m.Names() {
		s := m.services[name]
		lead(name, s.DefaultSubset, s.OnEmptySubset, s.Retry.Attempts)
		for _, r := range s.Routes {
			if len(r.Split) == 0 {
				lead(name, s.DefaultSubset, r.OnEmptySubset, r.Retry.Attempts)
			}
			for _, share := range r.Split {
				lead(share.Service, share.Subset, share.OnEmpty, r.Retry.Attempts)
			}
		}
	}
}

// routed are the services that routes name, and the server of limits.
func (d *decoder) routed(s *mapping) []value {
	var names []value
	add := func(m *mapping) {
		if v, ok := m.peek("service"); ok {
			names = append(names, v)
		}
	}
	add(s.section("policies").section("rate_limit").section("server"))
	for _, item := range s.items("routes") {
		if item.Kind != yamlfile.Map {
			continue
		}
		r := item.mapping()
		add(r)
		if r.has("mirror") {
			add(r.section("mirror"))
		}
		for _, share := range r.items("split") {
			if share.Kind == yamlfile.Map {
				add(share.mapping())
			}
		}
	}
	return names
}

// checkHidden warns of routes that no request comes to.
func (d *decoder) checkHidden(m *Mesh, items []value) {
	at := make(map[string]*mapping)
	for _, item := range items {
		at[item.short()] = item.mapping()
	}
	for _, name := range m.Names() {
		routes := m.services[name].Routes
		for i := range routes {
			for j := range routes[:i] {
				if routes[j].hides(&routes[i]) {
					at[routes[i].Key].first("name").fail(CodeHidden, "the first route of a service that matches decides: put it before "+routes[j].Name,
						"no request comes to %s: %s, before it, takes all that it matches", routes[i].Name, routes[j].Name)
					break
				}
			}
		}
	}
}

func redirectStatus() kind[Redirect] {
	s := shape{form: formWhole, least: 301, most: 308, code: CodeRange}
	return kind[Redirect]{s, func(v value, to *Redirect) bool {
		n, ok := v.whole(301, 308)
		if ok && !slices.Contains([]uint64{301, 302, 303, 307, 308}, n) {
			v.fail(CodeRange, "301, 302, 303, 307 or 308", "%d is no redirect", n)
			return false
		}
		to.Status = uint32(n) //nolint:gosec // at most 308
		return ok
	}}
}

// maxResponseBody is what Envoy takes unless it is told otherwise.
const maxResponseBody = 4096

func responseBody() parser[string] {
	return parser[string]{shape{what: "text"}, func(v value) (string, bool) {
		text, ok := v.str()
		if ok && len(text) > maxResponseBody {
			v.fail(CodeValue, "", "has %d bytes; at most %d", len(text), maxResponseBody)
			return "", false
		}
		return text, ok
	}}
}

func grpcName() parser[string] {
	return checked("name of gRPC", "^[A-Za-z0-9._]+$", CodeMatch, func(v value, text string) bool {
		if !onlyOf(text, "._") {
			v.fail(CodeMatch, "", "%q is no name of gRPC", text)
			return false
		}
		return true
	})
}

// routePath is a path as a request has it once it is normalized.
func routePath() parser[string] {
	return checked("path", "^/", CodePath, func(v value, text string) bool {
		if why := unmatchable(text); why != "" {
			v.fail(CodePath, "paths are compared as they are after normalization, without their query", "%q %s", text, why)
			return false
		}
		return true
	})
}

func pathTemplate() parser[string] {
	return checked("path with `{name}`, `*` and `**`", "^/", CodePath, func(v value, text string) bool {
		segments := strings.Split(strings.TrimPrefix(text, "/"), "/")
		seen := make(map[string]bool)
		for i, s := range segments {
			name, isName := strings.CutPrefix(s, "{")
			name, closed := strings.CutSuffix(name, "}")
			switch {
			case s == "*", s == "**" && i == len(segments)-1:
			case isName && closed && name != "" && onlyOf(name, "_") && !seen[name] && (name[0] < '0' || name[0] > '9'):
				seen[name] = true
			case s != "" && onlyOf(s, "-._~%!$&'()+,;:@="):
			default:
				v.fail(CodePath, "/users/{id}/files/**", "%q has a segment %q that means nothing", text, s)
				return false
			}
		}
		if !strings.HasPrefix(text, "/") || len(seen) > 5 {
			v.fail(CodePath, "/users/{id}", "%q does not begin with /, or has more than five names", text)
			return false
		}
		return true
	})
}
