package harness_test

import (
	"errors"
	"strconv"
	"testing"
	"time"

	"datapunk.dev/controlplane/e2e/app"
	"datapunk.dev/controlplane/e2e/harness"
	"datapunk.dev/controlplane/e2e/run"
	"datapunk.dev/controlplane/e2e/traffic"
	"datapunk.dev/controlplane/internal/consulagent"
)

func TestPortsAreNeverHandedOutTwice(t *testing.T) {
	seen := make(map[int]bool)
	for range 100 {
		port := harness.Port(t)
		if seen[port] {
			t.Fatalf("port %d twice", port)
		}
		seen[port] = true
	}
}

func TestWireIsSilentUntilItIsNot(t *testing.T) {
	server, err := app.StartTCP(0, "hello")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Die()
	w, err := traffic.NewWire("127.0.0.1:" + strconv.Itoa(server.Port()))
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if heard, err := traffic.Hear(t.Context(), w.Addr(), 200*time.Millisecond); err != nil || heard != "hello" {
		t.Errorf("through the wire: %q, %v", heard, err)
	}
	w.Silence(true)
	if heard, err := traffic.Hear(t.Context(), w.Addr(), 200*time.Millisecond); err != nil || heard != "" {
		t.Errorf("through a silent wire: %q, %v", heard, err)
	}
}

func TestLoadCountsWhatItSent(t *testing.T) {
	a, err := app.Start("lake_service", "lake-1", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Die()
	a.Behave(app.Behavior{FailRate: 0.5})
	r := traffic.Load{Addr: a.Addr(), Requests: 40}.Do(t.Context())
	if r.Requests != 40 || r.Failed() != 20 || r.Instances["lake-1"] != 40 || a.Count() != 40 {
		t.Errorf("%s", r)
	}
}

func TestConsulStartsAndForgets(t *testing.T) {
	c := consulagent.ForTest(t, consulagent.Options{})
	r := run.NewConsulRegistry(c.API)
	defer func() { _ = r.Close() }()
	if err := r.Register(run.Instance{Service: "lake_service", ID: "lake-1", Port: 8080, MeshPort: 20000}); err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, "lake-1 passes", 5*time.Second, func() error {
		entries, _, err := c.API.Health().Service("lake_service", "", true, nil)
		if err == nil && len(entries) != 1 {
			err = errNotYet
		}
		return err
	})
	if err := c.Stop(); err != nil {
		t.Error(err)
	}
}

func TestPrometheusScrapesWhatItIsTold(t *testing.T) {
	p := harness.StartPrometheus(t, "global: {scrape_interval: 1s}\nscrape_configs: [{job_name: none, static_configs: [{targets: ['127.0.0.1:1']}]}]\n")
	harness.Eventually(t, "the target is down", 20*time.Second, func() error {
		targets, err := p.Targets()
		if err != nil {
			return err
		}
		if len(targets) != 1 || targets[0].Health != "down" {
			return errNotYet
		}
		return nil
	})
	samples, err := p.Query("up")
	if err != nil {
		t.Fatal(err)
	}
	if len(samples) != 1 || samples[0].Value != "0" {
		t.Errorf("up is %v", samples)
	}
}

var errNotYet = errors.New("not yet")
