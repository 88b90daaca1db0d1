package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"datapunk.dev/controlplane/e2e/harness"
	"datapunk.dev/controlplane/e2e/run"
	"datapunk.dev/controlplane/e2e/traffic"
)

// BenchmarkAFleetOfThreeReplicas measures what 3,000 proxies and six Envoys among them
// see when one of three replicas is killed, comes back, and each is upgraded in turn.
//
//	go test ./e2e -run '^$' -bench AFleetOfThreeReplicas/3000 -benchtime 1x -v
func BenchmarkAFleetOfThreeReplicas(b *testing.B) {
	for _, proxies := range []int{300, 3000} {
		b.Run(fmt.Sprint(proxies), func(b *testing.B) {
			for range b.N {
				threeReplicas(b, proxies)
			}
		})
	}
}

func threeReplicas(b *testing.B, proxies int) {
	m := harness.Start(b, harness.Options{Consul: true, Flags: electing})
	planes := []*run.ControlPlane{m.Plane, another(b, m, "second"), another(b, m, "third")}
	addresses := []string{planes[0].XDSAddress(), planes[1].XDSAddress(), planes[2].XDSAddress()}
	const envoys = 6
	for n := range envoys / 2 {
		for _, service := range []string{"nexus", "lake_service"} {
			m.Add(harness.Spec{
				Service: service, ID: fmt.Sprintf("%s-%d", strings.TrimSuffix(service, "_service"), n+1),
				Flags: []string{"--xds-address", strings.Join(addresses[1:], ",")},
			})
		}
	}
	harness.Eventually(b, "nexus calls lake", 30*time.Second, func() error {
		r := traffic.Load{Addr: m.Sidecar("nexus-1").Outbound(), Request: traffic.Request{Host: "lake_service"}, Requests: 30}.Do(b.Context())
		if r.Failed() > 0 || len(r.Instances) != envoys/2 {
			return fmt.Errorf("%s", r)
		}
		return nil
	})
	load := m.Load("nexus-1", "lake_service", traffic.Load{Concurrency: 4, Rate: 100})
	fleet := startStandIns(b, m.Plane.DataDir(), addresses, "nexus", proxies)
	all := proxies + envoys

	// took waits until something is so, and says after how long.
	took := func(what string, within time.Duration, is func() error) time.Duration {
		b.Helper()
		began := time.Now()
		harness.Eventually(b, what, within, is)
		return time.Since(began)
	}
	whole := func(among []*run.ControlPlane) func() error {
		return func() error {
			counts, err := envoysAt(among)
			if err != nil {
				return err
			}
			sum := 0
			for _, n := range counts {
				sum += n
			}
			if sum != all || fleet.connected.Load() != int64(proxies) {
				return fmt.Errorf("they have %d of %d, and %d stand-ins are connected", counts, all, fleet.connected.Load())
			}
			return nil
		}
	}
	share := func() error {
		counts, err := envoysAt(planes)
		if err == nil && float64(slices.Max(counts)) > 1.2*float64(all)/3 {
			err = fmt.Errorf("they have %d", counts)
		}
		return err
	}
	report := func(name string, d time.Duration, bar time.Duration) {
		b.Helper()
		counts, _ := envoysAt(planes)
		b.Logf("%s: %.1f s; the replicas have %d, %d resources were sent again, %d streams", name, d.Seconds(), counts, fleet.sentAgain.Load(), fleet.streams.Load())
		b.ReportMetric(d.Seconds(), "s-"+strings.ReplaceAll(name, " ", "-"))
		if d > bar {
			b.Errorf("%s after %s, want at most %s", name, d, bar)
		}
	}
	elsewhere := func(name string, one int, end func()) {
		b.Helper()
		began := time.Now()
		end()
		took(name, time.Minute, whole(slices.Delete(slices.Clone(planes), one, one+1)))
		d := time.Since(began)
		time.Sleep(3 * time.Second) // for what is sent again
		report(name, d, 10*time.Second)
	}
	back := func(name string, one int) {
		b.Helper()
		if err := planes[one].Start(); err != nil {
			b.Fatal(err)
		}
		if err := planes[one].WaitReady(b.Context(), 30*time.Second); err != nil {
			b.Fatal(err)
		}
		d := took(name, 5*time.Minute, share)
		report(name, d, 5*time.Minute)
		took("all are connected", time.Minute, whole(planes))
	}

	took("all are connected", 2*time.Minute, whole(planes))
	report("spread at first", took("spread at first", 5*time.Minute, share), 5*time.Minute)
	took("all are connected", time.Minute, whole(planes))
	elsewhere("killed to elsewhere", 1, planes[1].Kill)
	back("returned to spread", 1)
	for i, p := range planes {
		elsewhere(fmt.Sprintf("upgrade %d to elsewhere", i+1), i, func() {
			if err := p.Stop(); err != nil {
				b.Error(err)
			}
		})
		back(fmt.Sprintf("upgrade %d to spread", i+1), i)
	}
	r := load.Stop()
	b.Logf("requests of Envoys: %d, %d failed", r.Requests, r.Failed())
	b.ReportMetric(float64(r.Failed()), "failed-requests")
	b.ReportMetric(float64(fleet.sentAgain.Load()), "resources-again")
	if r.Failed() > 0 {
		b.Errorf("requests failed: %s", r)
	}
	if n := fleet.sentAgain.Load(); n > 0 {
		b.Errorf("%d resources were sent again", n)
	}
}

// envoysAt returns how many Envoys, or what passes for one, each replica has.
func envoysAt(planes []*run.ControlPlane) (all []int, err error) {
	for _, p := range planes {
		metrics, err := p.Metrics()
		if err != nil {
			return nil, err
		}
		all = append(all, int(metrics["controlplane_envoys"]))
	}
	return all, nil
}
