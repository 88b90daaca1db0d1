package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"datapunk.dev/controlplane/e2e/harness"
	"datapunk.dev/controlplane/e2e/traffic"
)

// trial is a fault under way: what it cost is said at its end.
type trial struct {
	t     *testing.T
	m     *harness.Mesh
	load  *traffic.Running
	began time.Time
	sent  map[string]int
	seen  time.Duration
}

// begin has requests under way, of which none may fail.
func begin(t *testing.T, m *harness.Mesh) *trial {
	t.Helper()
	f := &trial{t: t, m: m, load: m.Load("nexus-1", "lake_service", traffic.Load{Rate: 100})}
	f.now()
	return f
}

// now is when the fault comes, from which on the rest counts.
func (f *trial) now() { f.began, f.sent, f.seen = time.Now(), pushes(f.t, f.m), 0 }

// said waits until /readyz says what is wrong, and notes how long that took.
func (f *trial) said(within time.Duration, words string) {
	f.t.Helper()
	harness.Eventually(f.t, "/readyz says "+words, within, func() error {
		code, ready, err := f.m.Plane.Readyz()
		if err != nil {
			return err
		}
		if code != http.StatusOK || !strings.Contains(strings.Join(ready.Holding, "\n"), words) {
			return fmt.Errorf("%d, %+v", code, ready)
		}
		return nil
	})
	f.seen = time.Since(f.began)
}

// well waits until something is so, and until /readyz holds nothing, and says what the
// fault cost since it came.
func (f *trial) well(what string, within time.Duration, is func() error) {
	f.t.Helper()
	began := time.Now()
	harness.Eventually(f.t, what, within, is)
	harness.Eventually(f.t, "nothing is held", within, func() error {
		_, ready, err := f.m.Plane.Readyz()
		if err == nil && len(ready.Holding) > 0 {
			err = fmt.Errorf("holding %q", ready.Holding)
		}
		return err
	})
	f.says(what, time.Since(began))
}

func (f *trial) says(what string, well time.Duration) {
	f.t.Helper()
	sent := 0
	for typ, n := range pushes(f.t, f.m) {
		sent += n - f.sent[typ]
	}
	seen := "not said"
	if f.seen > 0 {
		seen = fmt.Sprintf("%.1f s until it was seen", f.seen.Seconds())
	}
	f.t.Logf("measured: %s: %s, %.1f s until well, %d responses sent", what, seen, well.Seconds(), sent)
}

// enough is how long the requests go on at least: a few say nothing.
const enough = 2 * time.Second

// end stops the requests.
func (f *trial) end() {
	f.t.Helper()
	time.Sleep(time.Until(f.began.Add(enough)))
	r := f.load.Stop()
	f.t.Logf("measured: %d requests, %d failed", r.Requests, r.Failed())
	if r.Failed() != 0 || r.Requests < 100 {
		f.t.Errorf("%s", r)
	}
}

// instances is nil when the caller is answered by so many instances.
func (f *trial) instances(want int) func() error {
	return func() error {
		r := traffic.Load{Addr: f.m.Sidecar("nexus-1").Outbound(), Request: traffic.Request{Host: "lake_service"}, Requests: 40}.Do(f.t.Context())
		if len(r.Instances) != want {
			return fmt.Errorf("%s", r)
		}
		return nil
	}
}

// xdsStreams are those that the control plane has.
func xdsStreams(m *harness.Mesh) (n int) {
	for name, v := range m.Metrics() {
		if strings.HasPrefix(name, "controlplane_xds_streams{") || name == "controlplane_xds_streams" {
			n += int(v)
		}
	}
	return n
}
