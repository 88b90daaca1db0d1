package e2e

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/websocket"

	"datapunk.dev/controlplane/e2e/app"
	"datapunk.dev/controlplane/e2e/harness"
	"datapunk.dev/controlplane/e2e/run"
	"datapunk.dev/controlplane/e2e/traffic"
)

const hostnameFile = `mesh:
  name: datapunk
  load_balancing: {policy: round_robin, panic_threshold: 50}
  policies: {retry: {attempts: 0}}
  circuit_breakers: {default: {outlier_detection: {consecutive_5xx: 0, consecutive_gateway_failure: 0}}}
  services:
    lake: {timeout: {request: 0s}}
    bank: {protocol: tcp}
    nexus: {upstreams: [lake, stream, imposter, {service: bank, local_bind_port: %d}]}
  security:
    authorization:
      policies:
        - {name: nexus, action: ALLOW, sources: [nexus], not_destinations: [stream]}
`

// registerAs registers a sidecar by a name in the place of its address.
func registerAs(t *testing.T, m *harness.Mesh, s *harness.Sidecar, name string, change ...func(*run.Instance)) {
	t.Helper()
	i := s.Instance()
	i.Address = name
	for _, c := range change {
		c(&i)
	}
	noError(t, m.Registry.Register(i))
}

// hostsOf returns the addresses that a caller has of a service, with the EDS
// health of each.
func hostsOf(m *harness.Mesh, id, service string) (map[string]string, error) {
	clusters, err := m.Sidecar(id).Envoy.Clusters()
	if err != nil {
		return nil, err
	}
	hosts := make(map[string]string)
	for _, h := range clusters[service].Hosts {
		hosts[fmt.Sprintf("%s:%d", h.Address.Socket.Address, h.Address.Socket.Port)] = h.Health.EDS
	}
	return hosts, nil
}

// TestInstancesWhoseAddressIsAName stand beside those with an address, and what
// holds for these holds for them: identity, policies, weight, health, maintenance.
// Each proxy asks DNS itself.
func TestInstancesWhoseAddressIsAName(t *testing.T) {
	for _, protocol := range []string{"delta", "sotw"} {
		t.Run(protocol, func(t *testing.T) {
			dns := harness.StartDNS(t)
			port := harness.Port(t)
			m := harness.Start(t, harness.Options{Mesh: fmt.Sprintf(hostnameFile, port)})
			for _, id := range []string{"lake-1", "lake-2", "lake-3"} {
				m.Add(harness.Spec{Service: "lake", ID: id, Unregistered: true})
				dns.Set(id+".mesh.test", "127.0.0.1")
			}
			m.Add(harness.Spec{Service: "stream", ID: "stream-1"})
			m.Add(harness.Spec{Service: "bank", ID: "bank-1", SpeaksTCP: true, Banner: banner, Unregistered: true})
			dns.Set("bank.mesh.test", "127.0.0.1")
			registerAs(t, m, m.Sidecar("lake-1"), "Lake-1.mesh.test.")
			registerAs(t, m, m.Sidecar("lake-2"), "lake-2.mesh.test")
			m.Register(m.Sidecar("lake-3"))
			registerAs(t, m, m.Sidecar("bank-1"), "bank.mesh.test")
			m.Add(harness.Spec{Service: "nexus", ID: caller, Unregistered: true, Scoped: true, Bootstrap: func(s *harness.Sidecar, printed string) string {
				if protocol == "sotw" {
					printed = speaksSotW(s, printed)
				}
				return dns.Bootstrap(s, printed)
			}})
			m.Ready()
			inRotation(t, m, "lake", "lake-1", "lake-2", "lake-3")

			t.Run("identity", func(t *testing.T) {
				r := m.Call(caller, "lake", "/")
				if xfcc := r.Reply.Headers[clientCerts]; r.Status != 200 || !strings.Contains(xfcc, "URI="+meshID("nexus")) {
					t.Errorf("%s, %s %q", r, clientCerts, xfcc)
				}
				// A name that leads to somebody else leads nowhere.
				imposter := m.Sidecar("stream-1").Instance()
				imposter.Service, imposter.ID, imposter.Address = "imposter", "imposter-1", "imposter.mesh.test"
				dns.Set("imposter.mesh.test", "127.0.0.1")
				noError(t, m.Registry.Register(imposter))
				harness.Eventually(t, "the imposter is refused", 10*time.Second, func() error {
					if r := m.Call(caller, "imposter", "/"); r.Status != 503 {
						return fmt.Errorf("%s", r)
					}
					if m.Stats(caller)["cluster.imposter.ssl.fail_verify_san"] == 0 {
						return errors.New("but not for its certificate")
					}
					return nil
				})
			})
			t.Run("TCP", func(t *testing.T) {
				c, err := callBank(harness.Context(t, 10*time.Second), t, local(port))
				noError(t, err)
				noError(t, c.echoes("how much?"))
			})
			t.Run("weight", func(t *testing.T) {
				registerAs(t, m, m.Sidecar("lake-1"), "lake-1.mesh.test", func(i *run.Instance) { i.Weight = 8 })
				load := traffic.Load{Addr: m.Sidecar(caller).Outbound(), Request: traffic.Request{Host: "lake"}, Requests: 200}
				harness.Eventually(t, "weight 8 of 10 gets eight tenths", 10*time.Second, func() error {
					r := load.Do(t.Context())
					if got := share(r, "lake-1"); r.Failed() > 0 || got < 0.75 || got > 0.85 {
						return fmt.Errorf("%.2f: %s", got, r)
					}
					return nil
				})
				registerAs(t, m, m.Sidecar("lake-1"), "lake-1.mesh.test")
			})
			t.Run("health and maintenance", func(t *testing.T) {
				for _, c := range []struct {
					healths []run.Health
					called  []string
				}{
					{[]run.Health{run.Critical, run.Passing, run.Passing}, []string{"lake-2", "lake-3"}},
					{[]run.Health{run.Critical, run.Maintenance, run.Critical}, []string{"lake-1", "lake-3"}},
					{[]run.Health{run.Maintenance, run.Maintenance, run.Passing}, []string{"lake-3"}},
					{[]run.Health{run.Maintenance, run.Maintenance, run.Maintenance}, nil},
					{[]run.Health{run.Passing, run.Passing, run.Passing}, []string{"lake-1", "lake-2", "lake-3"}},
				} {
					for i, h := range c.healths {
						m.SetHealth(fmt.Sprintf("lake-%d", i+1), h)
					}
					calledAre(t, m, c.called...)
				}
			})
		})
	}
}

// TestNamesAreAskedForAgain and while nobody answers what was said last stays.
func TestNamesAreAskedForAgain(t *testing.T) {
	dns := harness.StartDNS(t)
	m := harness.Start(t, harness.Options{Mesh: strings.Replace(hostnameFile, ", {service: bank, local_bind_port: %d}", "", 1)})
	lake := m.Add(harness.Spec{Service: "lake", ID: "lake-1", Unregistered: true})
	dns.Set("lake.mesh.test", "127.0.0.1", "127.0.0.9")
	registerAs(t, m, lake, "lake.mesh.test")
	m.Add(harness.Spec{Service: "nexus", ID: caller, Unregistered: true, Scoped: true, Bootstrap: dns.Bootstrap})
	m.Ready()
	has := func(want ...string) {
		t.Helper()
		harness.Eventually(t, fmt.Sprintf("the addresses are %v", want), 20*time.Second, func() error {
			hosts, err := hostsOf(m, caller, "lake")
			if err != nil {
				return err
			}
			for _, a := range want {
				if hosts[fmt.Sprintf("%s:%d", a, lake.MeshPort)] == "" {
					return fmt.Errorf("they are %v", hosts)
				}
			}
			if len(hosts) != len(want) {
				return fmt.Errorf("they are %v", hosts)
			}
			return nil
		})
	}
	has("127.0.0.1", "127.0.0.9")
	dns.Set("lake.mesh.test", "127.0.0.1")
	has("127.0.0.1")

	dns.Silence(true)
	before, asked := m.Stats(caller)["cluster.lake.update_failure"], dns.Asked()
	harness.Eventually(t, "it was asked for three times in vain", 40*time.Second, func() error {
		if n := m.Stats(caller)["cluster.lake.update_failure"] - before; n < 3 {
			return fmt.Errorf("%d times", n)
		}
		return nil
	})
	if n := dns.Asked() - asked; n > 40 {
		t.Errorf("one name that cannot be resolved cost %d questions", n)
	}
	if r := m.Call(caller, "lake", "/"); r.Status != 200 {
		t.Errorf("while DNS is away: %s", r)
	}
	dns.Silence(false)
	dns.Set("lake.mesh.test")
	harness.Eventually(t, "a name that is gone has no instance", 20*time.Second, func() error {
		if r := m.Call(caller, "lake", "/"); r.Status != 503 {
			return fmt.Errorf("%s", r)
		}
		return nil
	})
	dns.Set("lake.mesh.test", "127.0.0.1")
	has("127.0.0.1")

	// An Envoy that starts while DNS is away comes up, and finds the rest.
	dns.Silence(true)
	second := m.Prepare(harness.Spec{Service: "nexus", ID: "nexus-2", Scoped: true, Bootstrap: dns.Bootstrap})
	m.Launch(second)
	noError(t, second.Envoy.WaitReady(t.Context(), 30*time.Second))
	dns.Silence(false)
	harness.Eventually(t, "nexus-2 finds lake", 20*time.Second, func() error {
		if r := m.Call("nexus-2", "lake", "/"); r.Status != 200 {
			return fmt.Errorf("%s", r)
		}
		return nil
	})
}

// TestAServiceThatComesToHaveNamesFailsNoCall: its cluster is replaced, under
// load and under an open WebSocket, and comes back to an assignment.
func TestAServiceThatComesToHaveNamesFailsNoCall(t *testing.T) {
	dns := harness.StartDNS(t)
	m := harness.Start(t, harness.Options{Mesh: fmt.Sprintf(hostnameFile, harness.Port(t))})
	m.Add(harness.Spec{Service: "nexus", ID: caller, Unregistered: true, Scoped: true, Bootstrap: dns.Bootstrap})
	for _, id := range []string{"lake-1", "lake-2"} {
		m.Add(harness.Spec{Service: "lake", ID: id, Unregistered: true})
		dns.Set(id+".mesh.test", "127.0.0.1")
	}
	m.Register(m.Sidecar("lake-1"))
	m.Ready()
	ws := dialWebSocket(harness.Context(t, time.Minute), t, m.Sidecar(caller).Outbound(), "lake")
	m.Sidecar("lake-1").App.Behave(app.Behavior{Delay: 5 * time.Millisecond})
	load := m.Load(caller, "lake", traffic.Load{Rate: 200})
	serve := func(what string, ids ...string) {
		t.Helper()
		before := load.Snapshot()
		harness.Eventually(t, what, 15*time.Second, func() error {
			now := load.Snapshot()
			for _, id := range ids {
				if now.Instances[id]-before.Instances[id] < 20 {
					return fmt.Errorf("%s", now)
				}
			}
			return nil
		})
		if r := load.Snapshot(); r.Failed() > 0 {
			t.Fatalf("%s: %s", what, r)
		}
		var got string
		noError(t, websocket.Message.Send(ws, what))
		if err := websocket.Message.Receive(ws, &got); err != nil || got != "lake-1: "+what {
			t.Fatalf("the WebSocket: %q, %v", got, err)
		}
	}
	serve("an address", "lake-1")
	registerAs(t, m, m.Sidecar("lake-2"), "lake-2.mesh.test")
	serve("an address and a name", "lake-1", "lake-2")
	registerAs(t, m, m.Sidecar("lake-1"), "lake-1.mesh.test")
	serve("two names", "lake-1", "lake-2")
	m.SetHealth("lake-2", run.Critical)
	serve("one of two names", "lake-1")
	m.Register(m.Sidecar("lake-2"))
	serve("a name and an address", "lake-1", "lake-2")
	m.Register(m.Sidecar("lake-1"))
	serve("two addresses", "lake-1", "lake-2")
	load.Stop()
}
