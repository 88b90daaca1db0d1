package e2e

import (
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"datapunk.dev/controlplane/e2e/app"
	"datapunk.dev/controlplane/e2e/harness"
	"datapunk.dev/controlplane/e2e/traffic"
)

// noEjection leaves retries to the retry policy alone: nothing is ejected, and
// no budget ends them.
const noEjection = `mesh:
  circuit_breakers:
    default:
      max_retries: 1000
      outlier_detection: {consecutive_5xx: 0, consecutive_gateway_failure: 0}
`

// tries counts the requests of an app by the number of the try, which the
// caller's sidecar writes into a header.
func tries(a *app.App) map[string]int {
	out := make(map[string]int)
	for _, arrival := range a.Arrivals() {
		out[arrival.Header.Get("x-envoy-attempt-count")]++
	}
	return out
}

// TestRetryGoesToAnotherHost: one of two instances answers 503 to everything,
// and no caller sees it.
func TestRetryGoesToAnotherHost(t *testing.T) {
	m := harness.Start(t, harness.Options{Overlay: noEjection + `
  policies:
    retry: {backoff: {base_interval: 10ms}}
`})
	m.Add(harness.Spec{Service: "nexus", ID: caller})
	bad := m.Add(harness.Spec{Service: "lake_service", ID: "lake-1"})
	good := m.Add(harness.Spec{Service: "lake_service", ID: "lake-2"})
	m.Ready()
	inRotation(t, m, "lake_service", "lake-1", "lake-2")
	bad.App.Behave(app.Behavior{FailRate: 1})
	bad.App.Forget()
	good.App.Forget()

	const requests = 120
	r := traffic.Load{
		Addr: m.Sidecar(caller).Outbound(), Request: traffic.Request{Host: "lake_service"}, Requests: requests,
	}.Do(t.Context())
	if r.Failed() > 0 || r.Instances["lake-2"] != requests {
		t.Errorf("%s; want every answer from lake-2", r)
	}
	onBad, onGood := tries(bad.App), tries(good.App)
	if onBad["1"] < requests/4 {
		t.Fatalf("lake-1 got only %d first tries: this shows nothing", onBad["1"])
	}
	// The looks for an instance that was not tried are in vain once in a million
	// retries. Chance would be half.
	if again := onBad["2"]; again > 1 {
		t.Errorf("of %d second tries %d went to the same instance", onBad["1"], again)
	}
	if onGood["2"] < onBad["1"]-1 {
		t.Errorf("tries on lake-1 %v, on lake-2 %v: want the second ones on lake-2", onBad, onGood)
	}
}

// TestRetryBacksOff: the waits between the tries of a request grow, each a
// random one below twice the last bound, and the first below base_interval.
func TestRetryBacksOff(t *testing.T) {
	const base, requests = 200 * time.Millisecond, 32
	m := harness.Start(t, harness.Options{Overlay: noEjection + fmt.Sprintf(`
  policies:
    retry: {attempts: 3, backoff: {base_interval: %s, max_interval: 10s}}
`, base)})
	m.Add(harness.Spec{Service: "nexus", ID: caller})
	m.Add(harness.Spec{Service: "lake_service", ID: "lake-1"})
	m.Ready()
	lake := m.Sidecar("lake-1").App
	lake.Behave(app.Behavior{FailRate: 1})
	lake.Forget()

	client := m.Client(caller)
	var calls sync.WaitGroup
	for i := range requests {
		calls.Go(func() {
			r, err := client.Get(t.Context(), "lake_service", fmt.Sprintf("/%d", i))
			if err != nil || r.Status != http.StatusServiceUnavailable {
				t.Errorf("call %d: %v %v", i, r, err)
			}
		})
	}
	calls.Wait()

	at := make(map[string][]time.Time) // the tries of each request
	for _, arrival := range lake.Arrivals() {
		at[arrival.Path] = append(at[arrival.Path], arrival.At)
	}
	var mean [3]time.Duration
	for path, times := range at {
		if len(times) != 4 {
			t.Fatalf("%s was tried %d times, want one and three retries", path, len(times))
		}
		for i := range mean {
			wait := times[i+1].Sub(times[i])
			if bound := base<<i + 250*time.Millisecond; wait > bound {
				t.Errorf("%s: retry %d came %s after its predecessor, want at most %s", path, i+1, wait, bound)
			}
			mean[i] += wait / requests
		}
	}
	if len(at) != requests {
		t.Errorf("%d requests arrived", len(at))
	}
	// Full jitter: the means are about half of the bounds.
	if mean[0] < base/4 || mean[1] < mean[0]*5/4 || mean[2] < mean[1]*5/4 {
		t.Errorf("the mean waits are %s: want them to grow from about %s to %s and %s", mean, base/2, base, 2*base)
	}
}
