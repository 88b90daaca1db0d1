package e2e

import (
	"fmt"
	"math"
	"net"
	"strings"
	"testing"
	"time"

	trace "go.opentelemetry.io/proto/otlp/trace/v1"

	"datapunk.dev/controlplane/e2e/harness"
	"datapunk.dev/controlplane/e2e/run"
	"datapunk.dev/controlplane/e2e/traffic"
)

// tracedMesh is nexus and lake_service, each with an environment of its own.
// Neither has the variables of the control plane.
func tracedMesh(t *testing.T, o harness.Options) *harness.Mesh {
	t.Helper()
	o.Env = append(o.Env, "SERVICE_VERSION=of-the-control-plane", "ENV=")
	m := harness.Start(t, o)
	m.Add(harness.Spec{Service: "nexus", ID: "nexus-1", Env: []string{"SERVICE_VERSION=1.2.3", "ENV=staging"}})
	m.Add(harness.Spec{Service: "lake_service", ID: "lake-1", Env: []string{"SERVICE_VERSION=4.5.6"}})
	return m
}

// spansOf returns the spans of one direction at one service.
func spansOf(c *harness.Collector, service string, kind trace.Span_SpanKind) []harness.Span {
	var out []harness.Span
	for _, s := range c.Spans() {
		if s.Resource["service.name"] == service && s.Kind == kind {
			out = append(out, s)
		}
	}
	return out
}

// arrived waits until the collector has as many spans of caller and callee as
// calls came to the callee's application with word that they are traced, and
// returns that number. Envoy keeps a span back for up to five seconds.
func arrived(t *testing.T, m *harness.Mesh, c *harness.Collector) int {
	t.Helper()
	want := 0
	for _, a := range m.Sidecar("lake-1").App.Arrivals() {
		if strings.HasSuffix(a.Header.Get("traceparent"), "-01") {
			want++
		}
	}
	harness.Eventually(t, "every span has arrived", 12*time.Second, func() error {
		calls, serves := len(spansOf(c, "nexus", trace.Span_SPAN_KIND_CLIENT)), len(spansOf(c, "lake_service", trace.Span_SPAN_KIND_SERVER))
		if calls != want || serves != want {
			return fmt.Errorf("%d spans of the caller and %d of the callee, want %d of each", calls, serves, want)
		}
		return nil
	})
	return want
}

func TestSpansOfCallerAndCalleeAreOneTraceWithTheTagsOfTheFile(t *testing.T) {
	t.Parallel()
	c := harness.StartCollector(t)
	// The seed's provider, jaeger, found in the catalog: nothing names an address.
	m := tracedMesh(t, harness.Options{Overlay: "mesh: {telemetry: {tracing: {sampling_rate: 1}}}"})
	if err := m.Registry.Register(run.Instance{
		Service: "jaeger", ID: "jaeger-1", Port: 16686, Meta: map[string]string{"otlp_port": fmt.Sprint(c.Port())},
	}); err != nil {
		t.Fatal(err)
	}
	m.Ready()
	harness.Eventually(t, "nexus-1 knows the collector", 5*time.Second, func() error {
		if r := m.Dump("nexus-1").Get("endpoint", "tracing"); r == nil || len(r.Find("port_value")) == 0 {
			return fmt.Errorf("no assignment")
		}
		return nil
	})

	const calls = 100
	r := traffic.Load{Addr: m.Sidecar("nexus-1").Outbound(), Request: traffic.Request{Host: "lake_service", Path: "/a?x=1"}, Requests: calls}.Do(t.Context())
	if r.Failed() != 0 {
		t.Fatal(r)
	}
	if n := arrived(t, m, c); n != calls {
		t.Errorf("at a rate of 1, %d of %d requests were traced", n, calls)
	}

	serving := make(map[string]harness.Span) // by trace
	for _, s := range spansOf(c, "lake_service", trace.Span_SPAN_KIND_SERVER) {
		serving[s.TraceID] = s
		if s.Attributes["service.version"] != "4.5.6" || s.Attributes["environment"] != "development" {
			t.Fatalf("the callee's tags: %v", s.Attributes)
		}
	}
	for _, call := range spansOf(c, "nexus", trace.Span_SPAN_KIND_CLIENT) {
		served, ok := serving[call.TraceID]
		if !ok {
			t.Fatalf("trace %s has no span of the callee", call.TraceID)
		}
		if served.ParentID != call.SpanID {
			t.Fatalf("the callee's span has the parent %s, want the caller's span %s", served.ParentID, call.SpanID)
		}
		if call.Name != "lake_service" {
			t.Fatalf("the caller's span is called %q", call.Name)
		}
		if call.Attributes["service.version"] != "1.2.3" || call.Attributes["environment"] != "staging" {
			t.Fatalf("the caller's tags: %v", call.Attributes)
		}
	}
	if len(serving) != calls {
		t.Errorf("%d traces, want %d", len(serving), calls)
	}
}

func TestSamplingRateOfTheFileHolds(t *testing.T) {
	t.Parallel()
	c := harness.StartCollector(t)
	m := tracedMesh(t, harness.Options{Overlay: fmt.Sprintf("mesh: {telemetry: {tracing: {endpoint: %q}}}", c.Addr())})
	m.Ready()

	// The seed's rate is 0.1. Five standard deviations: a right build fails
	// once in a million runs.
	const calls, rate = 1000, 0.1
	r := traffic.Load{Addr: m.Sidecar("nexus-1").Outbound(), Request: traffic.Request{Host: "lake_service"}, Requests: calls}.Do(t.Context())
	if r.Failed() != 0 {
		t.Fatal(r)
	}
	sampled := arrived(t, m, c)
	if off := math.Abs(float64(sampled) - calls*rate); off > 5*math.Sqrt(calls*rate*(1-rate)) {
		t.Errorf("%d of %d requests were traced at a rate of %g", sampled, calls, rate)
	}

	// What is not sampled has no span anywhere, what a caller sampled is
	// traced whole: the callee does not throw its own dice.
	traces := make(map[string]int)
	for _, s := range c.Spans() {
		traces[s.TraceID]++
	}
	if len(traces) != sampled {
		t.Errorf("%d traces of %d sampled requests", len(traces), sampled)
	}
}

func TestAbsentCollectorDelaysNoStartAndFailsNoRequest(t *testing.T) {
	// A port that takes connections and never answers, and a name server that
	// never does: Envoy asks it for 20 s and more.
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = silent.Close() }()
	names, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = names.Close() }()
	resolver := fmt.Sprintf(`
typed_dns_resolver_config:
  name: envoy.network.dns_resolver.cares
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig
    resolvers: [{socket_address: {address: 127.0.0.1, port_value: %d}}]
`, names.LocalAddr().(*net.UDPAddr).Port)

	for _, c := range []struct{ name, tracing, asked string }{
		{"no jaeger in the catalog", "sampling_rate: 1", "jaeger"},
		{"a name that does not resolve", "sampling_rate: 1, endpoint: 'collector.invalid:4317'", "collector"},
		{"nobody listens", fmt.Sprintf("sampling_rate: 1, endpoint: '127.0.0.1:%d'", harness.Port(t)), ""},
		{"it never answers", fmt.Sprintf("sampling_rate: 1, endpoint: %q", silent.Addr()), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := harness.Start(t, harness.Options{Overlay: "mesh: {telemetry: {tracing: {" + c.tracing + "}}}"})
			lake := m.Prepare(harness.Spec{
				Service: "lake_service", ID: "lake-1",
				Bootstrap: func(_ *harness.Sidecar, printed string) string { return printed + resolver },
			})
			began := time.Now()
			m.Launch(lake)
			if err := lake.Envoy.WaitReady(t.Context(), 5*time.Second); err != nil {
				t.Fatal(err)
			}
			t.Logf("LIVE after %s", time.Since(began).Round(time.Millisecond))
			if c.asked != "" {
				question := make([]byte, 512)
				if err := names.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
					t.Fatal(err)
				}
				n, err := names.Read(question)
				if err != nil || !strings.Contains(string(question[:n]), c.asked) {
					t.Fatalf("the name server was asked %q (%v), want a question for %s", question[:n], err, c.asked)
				}
			}
			m.Register(lake)
			m.Ready()
			r := traffic.Load{Addr: lake.Outbound(), Request: traffic.Request{Host: "lake_service"}, Requests: 100}.Do(t.Context())
			if r.Failed() != 0 || r.Quantile(0.99) > time.Second {
				t.Errorf("%s; p99 %s", r, r.Quantile(0.99))
			}
			if n := m.Stats("lake-1")["http.outbound.tracing.random_sampling"]; n != 100 {
				t.Errorf("%d of 100 requests were traced: tracing is off, and this shows nothing", n)
			}
		})
	}
}
