package e2e

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	trace "go.opentelemetry.io/proto/otlp/trace/v1"

	"datapunk.dev/controlplane/e2e/harness"
	"datapunk.dev/controlplane/e2e/run"
	"datapunk.dev/controlplane/e2e/traffic"
)

// zipkinSpan is one in Zipkin's format, version 2.
type zipkinSpan struct {
	TraceID  string `json:"traceId"`
	ID       string
	ParentID string
	Kind     string
	Name     string
	Local    struct {
		Service string `json:"serviceName"`
	} `json:"localEndpoint"`
	Tags map[string]string
}

// zipkinCollector takes spans at one address.
type zipkinCollector struct {
	mu    sync.Mutex
	spans []zipkinSpan
}

func startZipkin(t *testing.T, address string) (c *zipkinCollector, at string) {
	t.Helper()
	l, err := net.Listen("tcp", address)
	noError(t, err)
	c = &zipkinCollector{}
	server := &httptest.Server{Listener: l, Config: &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var spans []zipkinSpan
		// A listener that an edit replaced may have spans of OTLP left, and sends
		// them to the collector of now.
		if err := json.NewDecoder(r.Body).Decode(&spans); err != nil || r.Method != http.MethodPost || r.URL.Path != "/api/v2/spans" {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.spans = append(c.spans, spans...)
		w.WriteHeader(http.StatusAccepted)
	})}}
	server.Start()
	t.Cleanup(server.Close)
	return c, l.Addr().String()
}

func (c *zipkinCollector) of(service, kind string) []zipkinSpan {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(c.spans), func(s zipkinSpan) bool { return s.Local.Service != service || s.Kind != kind })
}

// TestSpansGoWhereTheFileSays: to an address or to a service of the catalog, by
// OTLP or as Zipkin's, as many as the rate says.
func TestSpansGoWhereTheFileSays(t *testing.T) {
	otlp := harness.StartCollector(t)
	zipkin, zipkinAt := startZipkin(t, "127.0.0.1:0")
	// An address of loopback to itself, so that the protocol's own port is free.
	machine := fmt.Sprintf("127.%d.%d.9", 1+rand.IntN(250), rand.IntN(250))
	usual, _ := startZipkin(t, machine+":9411")
	overlay := func(tracing string) string {
		return "mesh: {load_balancing: {health_checks: null}, telemetry: {tracing: {tags: [{key: mesh.name, value: vocabulary}], " + tracing + "}}}\n"
	}
	m := harness.Start(t, harness.Options{Overlay: overlay("endpoint: '" + otlp.Addr() + "', sampling_rate: 0")})
	lake := m.Add(harness.Spec{Service: "lake_service", ID: "lake-1"})
	nexus := m.Add(harness.Spec{Service: "nexus", ID: caller})
	noError(t, m.Registry.Register(run.Instance{Service: "spans", ID: "spans-1", Address: machine, Port: 1}))
	m.Ready()
	ours := meshAuthority(t, m)
	asNexus := ours.caller(ours.issue(t, []string{meshID("nexus")}))
	const calls = 10 // Envoy's tracers send every five spans
	// From the application to the service, and of a caller without a sidecar to
	// it: each over a connection of its own, since a kept one belongs to the
	// listener of before an edit.
	call := func(t *testing.T) {
		t.Helper()
		for range calls {
			if r, err := traffic.Raw(t.Context(), nexus.Outbound(), traffic.Request{Host: "lake_service"}); err != nil || r.Status != 200 {
				t.Fatalf("%s, %v", r, err)
			}
			if r, err := callTLS(t.Context(), lake.Inbound(), asNexus, traffic.Request{Host: "lake_service"}); err != nil || r.Status != 200 {
				t.Fatalf("%s, %v", r, err)
			}
		}
	}
	edit := func(t *testing.T, typ, tracing string) {
		t.Helper()
		before := m.Proxies()
		m.Edit(overlay(tracing))
		for _, s := range m.Sidecars() {
			acknowledged(t, m, s.ID, typ, before[s.ID].Types[typ].Acknowledged)
		}
	}

	t.Run("none at a rate of 0, all at 1", func(t *testing.T) {
		call(t)
		edit(t, "route", "endpoint: '"+otlp.Addr()+"', sampling_rate: 1")
		call(t)
		harness.Eventually(t, "the spans after the edit have arrived", 12*time.Second, func() error {
			made, serves := len(spansOf(otlp, "nexus", trace.Span_SPAN_KIND_CLIENT)), len(spansOf(otlp, "lake_service", trace.Span_SPAN_KIND_SERVER))
			// The callee has a span of what its caller traced, and of its own.
			if made < calls || serves < 2*calls {
				return fmt.Errorf("%d spans of the caller and %d of the callee", made, serves)
			}
			return nil
		})
		if n := len(spansOf(otlp, "nexus", trace.Span_SPAN_KIND_CLIENT)); n != calls {
			t.Errorf("%d spans of the caller's %d calls: the rate of 0 traced some", n, calls)
		}
		for _, s := range otlp.Spans() {
			if s.Attributes["mesh.name"] != "vocabulary" {
				t.Errorf("tags %v", s.Attributes)
			}
		}
	})
	for _, c := range []struct {
		name, tracing string
		moves         string
		collector     *zipkinCollector
	}{
		{"zipkin at an address", "provider: zipkin, endpoint: '" + zipkinAt + "', sampling_rate: 1", "listener", zipkin},
		{"zipkin as a service of the catalog, at its usual port", "provider: zipkin, service: spans, sampling_rate: 1", "cluster", usual},
	} {
		t.Run(c.name, func(t *testing.T) {
			edit(t, c.moves, c.tracing)
			call(t)
			harness.Eventually(t, "the spans have arrived", 12*time.Second, func() error {
				if made, serves := len(c.collector.of("nexus", "CLIENT")), len(c.collector.of("lake_service", "SERVER")); made != calls || serves < calls {
					return fmt.Errorf("%d spans of the caller and %d of the callee, want %d of each", made, serves, calls)
				}
				return nil
			})
			for _, s := range c.collector.of("nexus", "CLIENT") {
				if s.Name != "lake_service" || s.Tags["mesh.name"] != "vocabulary" || len(s.TraceID) != 32 {
					t.Errorf("a span is %+v", s)
				}
			}
		})
	}
}
