package e2e

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"math"
	"net/http"
	"strings"
	"testing"
	"time"

	"datapunk.dev/controlplane/e2e/harness"
	"datapunk.dev/controlplane/e2e/traffic"
)

const parentSpan = "00f067aa0ba902b7"

func newTrace() string {
	id := make([]byte, 16)
	_, _ = rand.Read(id) // never fails
	return hex.EncodeToString(id)
}

// begun are the ways in which an application says that it has begun a trace, and
// whether it is recorded.
type begun struct {
	says    string
	headers func(trace string) http.Header
	traced  bool
}

func w3c(says, flags string, traced bool, more ...string) begun {
	return begun{says, func(trace string) http.Header {
		h := http.Header{"Traceparent": {"00-" + trace + "-" + parentSpan + "-" + flags}}
		for i := 0; i < len(more); i += 2 {
			h.Set(more[i], more[i+1])
		}
		return h
	}, traced}
}

func b3(sampled string, traced bool) begun {
	return begun{"b3: …-" + sampled, func(trace string) http.Header {
		return http.Header{"B3": {trace + "-" + parentSpan + "-" + sampled}}
	}, traced}
}

func b3Multi(sampled string, traced bool) begun {
	return begun{"x-b3-sampled: " + sampled, func(trace string) http.Header {
		return http.Header{"X-B3-Traceid": {trace}, "X-B3-Spanid": {parentSpan}, "X-B3-Sampled": {sampled}}
	}, traced}
}

// TestTheDecisionOfWhoBeganATraceHolds: the rate of the file is of traces that
// begin in the mesh. What the application decided of its own holds at both sidecars
// and for the application that is called, whatever the provider, and whatever the
// request id is made of.
func TestTheDecisionOfWhoBeganATraceHolds(t *testing.T) {
	parents := []begun{
		w3c("traceparent: …-01", "01", true), w3c("traceparent: …-00", "00", false),
		w3c("traceparent: …-01, with a request id of its own", "01", true, "X-Request-Id", "order-17"),
		w3c("traceparent: …-00, with a request id of its own", "00", false, "X-Request-Id", "order-17"),
		w3c("traceparent: …-03", "03", true),
	}
	for _, c := range []struct {
		provider string
		parents  []begun
	}{
		{"otlp", parents},
		{"jaeger", parents},
		{"zipkin", append(parents, b3("1", true), b3("0", false), b3Multi("1", true), b3Multi("0", false))},
	} {
		t.Run(c.provider, func(t *testing.T) {
			otlp := harness.StartCollector(t)
			zipkin, at := startZipkin(t, "127.0.0.1:0")
			if c.provider != "zipkin" {
				at = otlp.Addr()
			}
			m := harness.Start(t, harness.Options{Overlay: fmt.Sprintf("mesh: {telemetry: {tracing: {provider: %s, endpoint: %q, sampling_rate: 0.1}}}", c.provider, at)})
			nexus := m.Add(harness.Spec{Service: "nexus", ID: caller})
			lake := m.Add(harness.Spec{Service: "lake_service", ID: "lake-1"})
			m.Ready()

			recorded := make(map[string]bool) // traces that both sidecars are to have a span of
			dropped := make(map[string]bool)  // and those that nobody is
			client := traffic.NewClient(nexus.Outbound())
			defer client.Close()
			for _, p := range c.parents {
				const calls = 60
				lake.App.Forget()
				for range calls {
					trace := newTrace()
					if p.traced {
						recorded[trace] = true
					} else {
						dropped[trace] = true
					}
					if r, err := client.Do(t.Context(), traffic.Request{Host: "lake_service", Header: p.headers(trace)}); err != nil || r.Status != 200 {
						t.Fatalf("%s, %v", r, err)
					}
				}
				kept := 0
				for _, a := range lake.App.Arrivals() {
					trace, traced := heardOf(a.Header)
					if (recorded[trace] || dropped[trace]) && traced == p.traced {
						kept++
					}
				}
				if kept != calls {
					t.Errorf("%s: so it was for the application that was called in %d of %d calls", p.says, kept, calls)
				}
			}
			const begins = 600
			lake.App.Forget()
			r := traffic.Load{Addr: nexus.Outbound(), Request: traffic.Request{Host: "lake_service"}, Requests: begins}.Do(t.Context())
			if r.Failed() > 0 {
				t.Fatal(r)
			}
			sampled := 0
			for _, a := range lake.App.Arrivals() {
				if trace, traced := heardOf(a.Header); traced {
					recorded[trace] = true
					sampled++
				}
			}
			// Five standard deviations: a right build fails once in a million runs.
			if off := math.Abs(float64(sampled) - 0.1*begins); off > 5*math.Sqrt(0.1*0.9*begins) {
				t.Errorf("of %d traces that begin in the mesh %d are recorded, at a rate of 0.1", begins, sampled)
			}

			harness.Eventually(t, "the spans have arrived", 15*time.Second, func() error {
				spans := make(map[string]int)
				if c.provider == "zipkin" {
					for _, s := range append(zipkin.of("nexus", "CLIENT"), zipkin.of("lake_service", "SERVER")...) {
						spans[s.TraceID]++
					}
				} else {
					for _, s := range otlp.Spans() {
						spans[s.TraceID]++
					}
				}
				for trace := range spans {
					if dropped[trace] {
						t.Errorf("a span of trace %s, which is not recorded", trace)
					}
				}
				for trace := range recorded {
					if spans[trace] < 2 {
						return fmt.Errorf("%d spans of trace %s", spans[trace], trace)
					}
				}
				return nil
			})
		})
	}
}

// heardOf is what an application is told of the trace that a call belongs to.
func heardOf(h http.Header) (trace string, traced bool) {
	if parts := strings.Split(h.Get("traceparent"), "-"); len(parts) == 4 {
		return parts[1], parts[3] == "01"
	}
	if parts := strings.Split(h.Get("b3"), "-"); len(parts) >= 3 {
		return parts[0], parts[2] == "1"
	}
	return h.Get("x-b3-traceid"), h.Get("x-b3-sampled") == "1"
}
