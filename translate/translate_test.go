package translate

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/watch"
)

// seedInput is the operators' own file, with the two sidecars of testdata.
func seedInput(t *testing.T) Input {
	t.Helper()
	return readCase(t, "testdata/seed.in.yaml")
}

// seedWith is seedInput with one edit of the file.
func seedWith(t *testing.T, old, replacement string) Input {
	t.Helper()
	text, err := os.ReadFile("testdata/seed.in.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), old) {
		t.Fatalf("%q is not in the file", old)
	}
	file := t.TempDir() + "/edited.in.yaml"
	if err := os.WriteFile(file, []byte(strings.Replace(string(text), old, replacement, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	return readCase(t, file)
}

// moved are the resources whose versions differ between two snapshots, in any
// view.
func moved(before, after *Snapshot) []string {
	names := make(map[string]struct{})
	for v := range sights(after) {
		old := sightOf(before, v.Profile)
		for kind := range resource.NumTypes {
			for _, name := range different(old.Sets[kind], v.Sets[kind]) {
				a, b := old.Sets[kind].Get(name), v.Sets[kind].Get(name)
				if a == nil || b == nil || a.Version != b.Version {
					names[kind.String()+" "+name] = struct{}{}
				}
			}
		}
	}
	var all []string
	for name := range names {
		all = append(all, name)
	}
	slices.Sort(all)
	return all
}

// TestEditMovesWhatItTouches edits the seed file one key at a time. What moves
// is what docs/mesh-file.md says; everything else keeps its version, so that no
// proxy is sent it.
func TestEditMovesWhatItTouches(t *testing.T) {
	clusters := []string{"cluster lake_service", "cluster nexus", "cluster stream_service"}
	http := []string{"listener inbound", "listener outbound"}
	routes := []string{"route outbound/lake_service", "route outbound/nexus", "route outbound/stream_service"}
	for _, edit := range []struct {
		old, replacement string
		want             []string
	}{
		{"name: datapunk-mesh", "name: other-mesh", nil},
		{`version: "1.0"`, `version: "1.1"`, nil},
		{"port: ${CONSUL_PORT:-8500}", "port: 8501", nil},
		{"datacenter: ${CONSUL_DC:-dc1}", "datacenter: dc2", nil},
		{"register_interval: 10s", "register_interval: 20s", nil},
		{"deregister_critical_service_after: 30s", "deregister_critical_service_after: 90s", nil},
		{"max_connections: 1024", "max_connections: 1025", []string{"cluster nexus", "cluster stream_service"}},
		{"max_retries: 3", "max_retries: 4", clusters},
		{"max_requests: 2048", "max_requests: 2049", []string{"cluster stream_service"}},
		{"max_connections: 2048", "max_connections: 2049", []string{"cluster lake_service"}},
		{"policy: least_request", "policy: round_robin", clusters},
		{"timeout: 5s", "timeout: 6s", clusters},
		{"interval: 10s\n      unhealthy", "interval: 11s\n      unhealthy", clusters},
		{"unhealthy_threshold: 3", "unhealthy_threshold: 4", clusters},
		{"healthy_threshold: 2", "healthy_threshold: 1", clusters},
		{"attempts: 3", "attempts: 2", routes},
		{"timeout: 2s", "timeout: 3s", routes},
		{"base_interval: 100ms", "base_interval: 90ms", routes},
		{"max_interval: 3s", "max_interval: 4s", routes},
		{"- refused-stream", "- reset", routes},
		{"idle: 5m", "idle: 6m", slices.Concat(clusters, http)},
		{"connect: 5s", "connect: 4s", []string{"cluster lake_service", "cluster local_app", "cluster local_app_grpc", "cluster nexus", "cluster stream_service"}},
		{"connect: 5s", "connect: 5s\n      app_idle: 500ms", []string{"cluster local_app", "cluster local_app_grpc"}},
		{"sampling_rate: 0.1", "sampling_rate: 0.2", append([]string{"route inbound"}, routes...)},
		{`"environment"`, `"env"`, http},
		{"scrape_interval: 15s", "scrape_interval: 20s", nil},
		{`path: "/metrics"`, `path: "/stats"`, []string{"listener metrics"}},
		{"cert_rotation: 24h", "cert_rotation: 12h", nil},
		{"action: ALLOW", "action: DENY", []string{"route inbound"}},
		{`"spiffe://datapunk/*"]`, `"spiffe://datapunk/nexus"]`, []string{"route inbound"}},
	} {
		t.Run(edit.replacement, func(t *testing.T) {
			in := seedInput(t)
			before := Translate(nil, in)
			in.Mesh = seedWith(t, edit.old, edit.replacement).Mesh
			after := Translate(before, in)
			if got := moved(before, after); !slices.Equal(got, edit.want) {
				t.Errorf("moved %v, want %v", got, edit.want)
			}
			if len(after.Held) > 0 {
				t.Errorf("held: %+v", after.Held)
			}
		})
	}
}

// TestEndpointMovesOneAssignment is the change that comes most often: nothing
// but one assignment moves, and the sets of other types keep their identity.
func TestEndpointMovesOneAssignment(t *testing.T) {
	in := seedInput(t)
	before := Translate(nil, in)
	in.Catalog = in.Catalog.Update([]*watch.Service{{Name: "lake_service", Instances: []*watch.Instance{
		{ID: "lake-1", Address: netip.MustParseAddr("10.0.0.2"), Port: 8080, MeshPort: 15008, Weight: 1},
	}}}, nil)
	after := Translate(before, in)
	if got, want := moved(before, after), []string{"endpoint lake_service"}; !slices.Equal(got, want) {
		t.Errorf("moved %v, want %v", got, want)
	}
	if len(after.ChangedScopes) != 1 || len(after.ChangedViews) != 0 {
		t.Errorf("%d scopes and %d views changed, want the one scope", len(after.ChangedScopes), len(after.ChangedViews))
	}
	scope := after.ChangedScopes[0]
	old := before.Scope(scope.Key)
	for kind := range resource.NumTypes {
		if same := scope.Sets[kind] == old.Sets[kind]; same == (kind == resource.Endpoint) {
			t.Errorf("the set of %s is the same: %t", kind, same)
		}
	}
	if names, known := scope.Sets[resource.Endpoint].ChangedSince(old.Sets[resource.Endpoint]); !known || !slices.Equal(names, []string{"lake_service"}) {
		t.Errorf("the endpoints say that %v changed (known %t)", names, known)
	}
}

// TestViewsShare: what does not depend on the proxy is one pointer everywhere.
func TestViewsShare(t *testing.T) {
	snapshot := Translate(nil, seedInput(t))
	all := slices.Collect(views(snapshot))
	a, b := all[0], all[1]
	if a.Scope != b.Scope {
		t.Error("two services that declare no upstreams have two scopes")
	}
	if a.Own.Get(resource.Route, routeInbound) != b.Own.Get(resource.Route, routeInbound) {
		t.Error("the inbound routes are made twice for one set of policies")
	}
	scope := snapshot.Scope(a.Scope)
	for _, name := range []string{"lake_service", "nexus", "stream_service", "tracing"} {
		if scope.Sets.Get(resource.Cluster, name) == nil || a.Own.Get(resource.Cluster, name) != nil {
			t.Errorf("cluster %s is not the scope's", name)
		}
	}
}

// A hundred proxies in front of applications with one port have one pair of
// clusters for them, wherever they are.
func TestProxiesShareTheClustersOfApplications(t *testing.T) {
	in := seedInput(t)
	in.Fleet = resource.NewFleet()
	for i := range 100 {
		in.Fleet = in.Fleet.Update([]resource.Profile{{
			Service: "nexus", Address: fmt.Sprintf("10.0.0.%d", i), AppPort: 8080, MeshPort: 15008, OutboundPort: 15001,
		}}, nil)
	}
	s := Translate(nil, in)
	sets := make(map[*resource.Set]int)
	for v := range views(s) {
		sets[v.Own[resource.Cluster]]++
	}
	if len(sets) != 1 {
		t.Errorf("%d sets of clusters, want one", len(sets))
	}
	in.Fleet = resource.NewFleet()
	if s = Translate(s, in); s.state.locals.Len() != 0 || s.state.groups.Len() != 0 || s.state.scopes.Len() != 0 {
		t.Errorf("the last proxy left: %d clusters, %d groups, %d scopes", s.state.locals.Len(), s.state.groups.Len(), s.state.scopes.Len())
	}
}

// TestScopeIsWhatIsDeclared: a proxy gets its upstreams, and nothing else of
// the mesh.
func TestScopeIsWhatIsDeclared(t *testing.T) {
	snapshot := Translate(nil, readCase(t, "testdata/tcp.in.yaml"))
	for v := range sights(snapshot) {
		if v.Profile.Service != "web" {
			continue
		}
		if got, want := setNames(v.Sets[resource.Cluster]), []string{"api", resource.ClusterLocalApp, resource.ClusterLocalAppGRPC, "postgres", "redis"}; !slices.Equal(got, want) {
			t.Errorf("clusters %v, want %v", got, want)
		}
		if got, want := setNames(v.Sets[resource.Listener]), []string{listenerInbound, listenerOutbound, "outbound_tcp_postgres", "outbound_tcp_redis"}; !slices.Equal(got, want) {
			t.Errorf("listeners %v, want %v", got, want)
		}
	}
}

func setNames(s *resource.Set) []string {
	var all []string
	for r := range s.All() {
		all = append(all, r.Name)
	}
	return all
}

// TestWhatCannotBeMadeIsHeld: the last good resource stays, alone, and the
// cause names the key.
func TestWhatCannotBeMadeIsHeld(t *testing.T) {
	in := readCase(t, "testdata/authorization.in.yaml")
	before := Translate(nil, in)
	text, err := os.ReadFile("testdata/authorization.in.yaml")
	if err != nil {
		t.Fatal(err)
	}
	file := t.TempDir() + "/huge.in.yaml"
	huge := strings.Replace(string(text), "{name: x-tenant, present: true}", "{name: x-tenant, regex: "+hugeRegex+"}", 1)
	if err := os.WriteFile(file, []byte(huge), 0o600); err != nil {
		t.Fatal(err)
	}
	in.Mesh = readCase(t, file).Mesh
	after := Translate(before, in)

	if len(after.Held) != 1 || after.Held[0].Type != resource.Route || after.Held[0].Name != routeInbound || !strings.Contains(after.Held[0].Cause, "lake: regex") {
		t.Fatalf("held: %+v", after.Held)
	}
	if !slices.Contains(after.Held[0].Keys, "security.authorization.policies[3]") {
		t.Errorf("the keys %v do not name the policy", after.Held[0].Keys)
	}
	if got := moved(before, after); len(got) > 0 {
		t.Errorf("moved %v, want nothing", got)
	}

	// Without a last good one, nobody is admitted: better than everybody.
	fresh := Translate(nil, in)
	for v := range sights(fresh) {
		closed := v.Sets[resource.Route].Get(routeInbound).Version == closedConfiguration().Version
		if closed != (v.Profile.Service == "lake") {
			t.Errorf("%s: closed %t", v.Profile.Service, closed)
		}
		check(t, v)
	}

	in.Mesh = readCase(t, "testdata/authorization.in.yaml").Mesh
	if healed := Translate(after, in); len(healed.Held) > 0 {
		t.Errorf("still held after the edit is undone: %+v", healed.Held)
	}
}

// TestMissingMetadata: an Envoy with a bootstrap of its own is served all that
// needs no metadata.
func TestMissingMetadata(t *testing.T) {
	in := seedInput(t)
	bare := resource.Profile{Service: "nexus"}
	in.Fleet = resource.NewFleet(bare, resource.Profile{Service: "nexus", Address: "nowhere", AppPort: 1, MeshPort: 2, OutboundPort: 3, MetricsPort: 4})
	snapshot := Translate(nil, in)
	v := sightOf(snapshot, bare)
	if v.Sets[resource.Listener].Len() != 0 || v.Sets[resource.Cluster].Get("lake_service") == nil || v.Sets[resource.Route].Get(outboundRoutes("lake_service")) == nil {
		t.Errorf("listeners %v, clusters %v", setNames(v.Sets[resource.Listener]), setNames(v.Sets[resource.Cluster]))
	}
	for _, word := range []string{"app_port", "mesh_port", "outbound_port", "metrics_port"} {
		if !slices.ContainsFunc(v.Missing, func(m string) bool { return strings.Contains(m, word) }) {
			t.Errorf("missing %q does not name %s", v.Missing, word)
		}
	}
	for v := range sights(snapshot) {
		if v.Profile.Address == "nowhere" && (len(v.Missing) != 1 || !slices.Equal(setNames(v.Sets[resource.Listener]), []string{listenerOutbound})) {
			t.Errorf("with a bad address: missing %q, listeners %v", v.Missing, setNames(v.Sets[resource.Listener]))
		}
	}
}

// TestMetricsPortOfTheMesh: the file's port is that of proxies which do not say
// one themselves.
func TestMetricsPortOfTheMesh(t *testing.T) {
	in := seedInput(t)
	in.Mesh = parse(t, "mesh: {name: m, telemetry: {metrics: {port: 9900}}}")
	for profile, want := range map[resource.Profile]uint32{
		{Service: "nexus"}:                    9900,
		{Service: "nexus", MetricsPort: 9102}: 9102,
	} {
		in.Fleet = resource.NewFleet(profile)
		var l listenerv3.Listener
		decode(t, sightOf(Translate(nil, in), profile).Sets[resource.Listener].Get(listenerMetrics), &l)
		if got := l.GetAddress().GetSocketAddress().GetPortValue(); got != want {
			t.Errorf("%+v: port %d, want %d", profile, got, want)
		}
	}
}

// TestListenersDoNotClash: of two listeners on one port, Envoy refuses the
// second, so it is never sent. A proxy says its ports itself: it is missing what
// they leave out, and the mesh holds nothing for it.
func TestListenersDoNotClash(t *testing.T) {
	for _, c := range []struct {
		profile resource.Profile
		missing string
	}{
		{resource.Profile{AppPort: 8080, MeshPort: 15008, OutboundPort: 15001, MetricsPort: 9102}, ""},
		{resource.Profile{AppPort: 8080, MeshPort: 15001, OutboundPort: 15001}, "no outbound listener"},
		{resource.Profile{Address: "10.0.0.1", AppPort: 8080, MeshPort: 15001, OutboundPort: 15001}, ""},
		{resource.Profile{AppPort: 8080, MeshPort: 8080, OutboundPort: 15001}, "no inbound listener"},
		{resource.Profile{Address: "10.0.0.1", AppPort: 8080, MeshPort: 8080, OutboundPort: 15001}, ""},
		{resource.Profile{Address: "10.0.0.1", AppPort: 8080, MeshPort: 15008, OutboundPort: 15001, MetricsPort: 15008}, "no metrics listener"},
		{resource.Profile{Address: "10.0.0.1", AppAddress: "10.0.0.1", AppPort: 8080, MeshPort: 8080, OutboundPort: 15001}, "no inbound listener"},
		{resource.Profile{Address: "10.0.0.1", AppAddress: "::1", AppPort: 8080, MeshPort: 8080, OutboundPort: 8080}, ""},
	} {
		c.profile.Service = "nexus"
		in := seedInput(t)
		in.Fleet = resource.NewFleet(c.profile)
		snapshot := Translate(nil, in)
		got := sightOf(snapshot, c.profile).Missing
		got = slices.DeleteFunc(slices.Clone(got), func(m string) bool { return !strings.Contains(m, "is taken") })
		if len(snapshot.Held) > 0 || len(got) > 1 || c.missing == "" && len(got) > 0 || c.missing != "" && !strings.Contains(strings.Join(got, ""), c.missing) {
			t.Errorf("%+v: missing %q, want %q; held %v", c.profile, got, c.missing, snapshot.Held)
		}
		check(t, sightOf(snapshot, c.profile))
	}
}

// TestNotes are the findings that no error can be: names that match nothing.
func TestNotes(t *testing.T) {
	in := seedInput(t)
	in.Catalog = in.Catalog.Update([]*watch.Service{{Name: "lake-service"}, {Name: "bad name"}}, []string{"lake_service"})
	in.Fleet = in.Fleet.Update([]resource.Profile{{Service: "Lake_Service", AppPort: 8080}}, nil)
	snapshot := Translate(nil, in)
	for _, want := range []string{
		"proxies of Lake_Service are connected, and the mesh has lake_service",
		"service lake_service: the catalog has no service lake_service; did you mean lake-service?",
		`service "bad name" is left out: it is no segment of a SPIFFE ID`,
	} {
		if !slices.ContainsFunc(snapshot.Notes, func(n string) bool { return strings.HasPrefix(n, want) }) {
			t.Errorf("no note %q among\n%s", want, strings.Join(snapshot.Notes, "\n"))
		}
	}
	for v := range sights(snapshot) {
		if v.Sets[resource.Cluster].Get("lake_service") == nil || v.Sets[resource.Endpoint].Get("lake_service") == nil {
			t.Error("a service of the file alone has no cluster, or no empty assignment")
		}
	}
}

// TestReservedNames: no service gets the control plane's identity, nor the name
// of a cluster of another origin.
func TestReservedNames(t *testing.T) {
	for name, want := range map[string]bool{
		"web": true, "Web-1.2_x": true,
		"": false, ".": false, "..": false, "a b": false, "a/b": false, "ä": false, "a|b": false,
		"control-plane": false, "local_app": false, "local_app_grpc": false, "tracing": false, "mesh_admin": false, "mesh_zone": false, "xds": false,
		"web.mesh": false, "web.MESH": false,
	} {
		if why := unservable(name); (why == "") != want {
			t.Errorf("%q: %q", name, why)
		}
	}
}

func TestStatusesAreRetriedWithoutAnyOtherCondition(t *testing.T) {
	s := parse(t, "mesh: {name: t, policies: {retry: {conditions: [], status_codes: [503], methods: [GET]}}}").Service("any")
	var d builder
	r := retryPolicy(&d, httpRetry(s.Retry, 0))
	if r.GetRetryOn() != "retriable-status-codes" || !slices.Equal(r.GetRetriableStatusCodes(), []uint32{503}) || len(d.errs) > 0 {
		t.Errorf("%v, %v", r, d.errs)
	}
	s = parse(t, "mesh: {name: t, policies: {retry: {conditions: []}}}").Service("any")
	if r := retryPolicy(&d, httpRetry(s.Retry, 0)); r != nil {
		t.Errorf("%v, want no retries", r)
	}
}

// TestAnAnswerIsTriedAgainOnlyIfTheBodyIsKept: requests which do not say how long
// their body is have a route of their own, if answers are tried again at all.
func TestAnAnswerIsTriedAgainOnlyIfTheBodyIsKept(t *testing.T) {
	for retry, want := range map[string]string{
		"{}":                                 "web-grpc web:connect-failure,refused-stream,reset-before-request",
		"{conditions: [5xx, retriable-4xx]}": "web-grpc web-unsized:connect-failure,refused-stream,reset-before-request web:connect-failure,refused-stream,reset-before-request,5xx,retriable-4xx",
		"{conditions: [connect-failure], status_codes: [503]}": "web-grpc web-unsized:connect-failure web:connect-failure,retriable-status-codes",
		"{conditions: [retriable-4xx]}":                        "web-grpc web-unsized web:retriable-4xx",
		"{conditions: [reset], methods: [GET, PUT]}":           "web-grpc web-unsized:connect-failure,refused-stream,reset-before-request web:connect-failure,refused-stream,reset-before-request,reset web-once",
		"{conditions: [reset], methods: [GET, DELETE]}":        "web-grpc web:reset web-once",
		"{conditions: [5xx, unavailable]}":                     "web-grpc web-unsized:connect-failure,refused-stream,reset-before-request web:5xx,unavailable",
		"{conditions: [5xx], attempts: 0}":                     "web-grpc web",
	} {
		var got []string
		for _, r := range virtualHostOf(parse(t, "mesh: {name: t, policies: {retry: "+retry+"}}").Service("web"), sampling{}).routes {
			name := r.name
			if !r.match.grpc && r.retry != nil {
				name += ":" + strings.Join(append(slices.Clone(r.retry.on), r.retry.answers...), ",")
			}
			got = append(got, name)
		}
		if got := strings.Join(got, " "); got != want {
			t.Errorf("%s: %s, want %s", retry, got, want)
		}
	}
}

// TestARoutesOwnTimeHoldsForAllOfItsRequests: where a route has a max_stream_duration,
// Envoy takes no notice of its timeout.
func TestARoutesOwnTimeHoldsForAllOfItsRequests(t *testing.T) {
	for timeout, want := range map[string]string{
		"{request: 3s}":                          "grpc 3s, other 3s",
		"{request: 3s, max_stream_duration: 1m}": "grpc 3s, other 3s",
		"{request: 2m, max_stream_duration: 1m}": "grpc 1m0s, other 1m0s",
		"{max_stream_duration: 1m}":              "grpc 1m0s, other 1m0s",
		"{request: 0s}":                          "grpc 0s, other 0s",
		"{request: 0s, max_stream_duration: 1m}": "grpc 1m0s, other 1m0s",
	} {
		for _, methods := range []string{"[GET]", "[GET, POST]"} {
			s := parse(t, fmt.Sprintf(`mesh:
  name: t
  policies: {retry: {conditions: [5xx], methods: %s}}
  routes: [{name: a, service: web, match: [{path: {prefix: /a}}], timeout: %s}]
`, methods, timeout)).Service("web")
			made, err := outboundConfiguration(virtualHostOf(s, sampling{}), nil)
			if err != nil {
				t.Fatal(err)
			}
			times := map[string]time.Duration{"application/grpc": -1, "": -1}
			for _, r := range decode(t, made, &routev3.RouteConfiguration{}).VirtualHosts[0].Routes {
				for kind, known := range times {
					post := map[string]string{":path": "/a", ":method": "POST", "content-type": kind, "content-length": "1"}
					if known >= 0 || !takes(t, r.Match, post) {
						continue
					}
					times[kind] = r.GetRoute().GetTimeout().AsDuration()
					if bound := r.GetRoute().MaxStreamDuration; bound != nil {
						times[kind] = bound.MaxStreamDuration.AsDuration()
					}
				}
			}
			if got := fmt.Sprintf("grpc %s, other %s", times["application/grpc"], times[""]); got != want {
				t.Errorf("%s, %s tried again: %s, want %s", timeout, methods, got, want)
			}
		}
	}
}

func TestRouteTimeoutLeavesTimeForRetries(t *testing.T) {
	mesh := func(policies string) string {
		return fmt.Sprintf("mesh:\n  name: t\n  policies: %s\n", policies)
	}
	for policies, want := range map[string]string{
		"{retry: {attempts: 3, timeout: 2s, backoff: {base_interval: 100ms, max_interval: 3s}, conditions: [5xx]}}":  "15s",
		"{retry: {attempts: 3, timeout: 10s, backoff: {base_interval: 100ms, max_interval: 3s}, conditions: [5xx]}}": "40.7s",
		"{retry: {attempts: 3, timeout: 10s, backoff: {base_interval: 2s, max_interval: 3s}, conditions: [5xx]}}":    "48s",
		"{retry: {attempts: 2, methods: [GET], status_codes: [429], backoff: {retry_after: 20s}}}":                   "55s",
		"{retry: {attempts: 0, methods: [GET], status_codes: [429], backoff: {retry_after: 20s}}}":                   "15s",
		"{timeout: {request: 3s}}": "3s",
		"{timeout: {request: 0s}}": "0s",
		"{}":                       "15s",
	} {
		s := parse(t, mesh(policies)).Service("any")
		if got := routeTimeout(s.Timeout, s.Retry).String(); got != want {
			t.Errorf("%s: %s, want %s", policies, got, want)
		}
	}
}
