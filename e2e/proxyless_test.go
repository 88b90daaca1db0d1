package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"datapunk.dev/controlplane/e2e/harness"
	"datapunk.dev/controlplane/e2e/run"
)

// proxylessServices are called by gRPC's own client.
const proxylessServices = `  services:
    grpc_service: {protocol: grpc}
    plain_service: {protocol: grpc}
`

// checkProxyless looks at what the control plane knows of an application: all
// that it asked for was sent and taken, and nothing was ever refused.
func checkProxyless(t *testing.T, m *harness.Mesh, id string) {
	t.Helper()
	harness.Eventually(t, id+" is synced", 5*time.Second, func() error { return proxylessSynced(m, id) })
	if n, ok := m.Metrics()["controlplane_xds_superseded_streams_total"]; n != 0 || !ok {
		t.Errorf("its streams drove each other out: %v", n)
	}
}

func proxylessSynced(m *harness.Mesh, id string) error {
	_, body, err := m.Plane.Get("/api/v1/proxies")
	if err != nil {
		return err
	}
	var answer struct {
		Proxies []struct {
			Node     string
			Protocol string
			Profile  struct{ Kind string }
			Types    map[string]run.ProxyType
		}
	}
	if err := json.Unmarshal([]byte(body), &answer); err != nil {
		return err
	}
	seen := 0
	for _, p := range answer.Proxies {
		if p.Node != id {
			continue
		}
		seen++
		if p.Profile.Kind != "proxyless" || p.Protocol != "sotw" {
			return fmt.Errorf("it is %s and speaks %s", p.Profile.Kind, p.Protocol)
		}
		for _, typ := range []string{"cluster", "endpoint", "listener"} {
			if s := p.Types[typ]; s.State != "SYNCED" || s.LastNack != nil {
				return fmt.Errorf("%s is %+v", typ, s)
			}
		}
	}
	if seen != 1 {
		return fmt.Errorf("it stands %d times in %s", seen, body)
	}
	return nil
}

// reaches waits until exactly these instances answer.
func (p *proxyless) reaches(service string, instances ...string) {
	p.t.Helper()
	harness.Eventually(p.t, fmt.Sprintf("%q answer for %s", instances, service), 10*time.Second, func() error {
		by := p.calls(service, 20)
		for id := range by {
			if !slices.Contains(instances, id) {
				return fmt.Errorf("%v", by)
			}
		}
		if len(by) != len(instances) {
			return fmt.Errorf("%v", by)
		}
		return nil
	})
}

func TestGRPCClientWithoutAnEnvoyCallsSidecarsAndPlainServersWithoutMTLS(t *testing.T) {
	m := harness.Start(t, harness.Options{Overlay: harness.MTLSOff + proxylessServices, Plaintext: true})
	m.Add(harness.Spec{Service: "grpc_service", ID: "grpc-1"})
	m.Add(harness.Spec{Service: "grpc_service", ID: "grpc-2"})
	plain := m.Prepare(harness.Spec{Service: "plain_service", ID: "plain-1"}) // and no Envoy
	noError(t, m.Registry.Register(run.Instance{Service: plain.Service, ID: plain.ID, Port: plain.AppPort}))
	m.Ready()

	client := startProxyless(t, m, "reports", "reports-1", false)
	client.reaches("grpc_service", "grpc-1", "grpc-2")
	client.reaches("plain_service", "plain-1")
	// Through the Envoy, where there is one.
	for _, id := range []string{"grpc-1", "grpc-2"} {
		if n, calls := m.Stats(id)["http.inbound.downstream_rq_total"], m.Sidecar(id).App.Count(); n == 0 || int(n) < calls {
			t.Errorf("%s: %d calls through its Envoy, %d at its app", id, n, calls)
		}
	}
	by := client.calls("grpc_service", 100)
	if by["grpc-1"] < 25 || by["grpc-2"] < 25 {
		t.Errorf("it does not balance: %v", by)
	}
	checkProxyless(t, m, "reports-1")

	// It follows the catalog, and no call fails on the way.
	m.SetHealth("grpc-2", run.Critical)
	client.reaches("grpc_service", "grpc-1")
	m.SetHealth("grpc-2", run.Passing)
	client.reaches("grpc_service", "grpc-1", "grpc-2")
	m.Deregister("grpc-1")
	client.reaches("grpc_service", "grpc-2")
	checkProxyless(t, m, "reports-1")
}

func TestGRPCClientWithoutAnEnvoyCallsSidecarsWithMTLSAndIsRefusedByADENY(t *testing.T) {
	m := harness.Start(t, harness.Options{Overlay: withPolicies(admitTheMesh) + proxylessServices})
	m.Add(harness.Spec{Service: "grpc_service", ID: "grpc-1"})
	m.Add(harness.Spec{Service: "grpc_service", ID: "grpc-2"})
	plain := m.Prepare(harness.Spec{Service: "plain_service", ID: "plain-1"})
	noError(t, m.Registry.Register(run.Instance{Service: plain.Service, ID: plain.ID, Port: plain.AppPort}))
	m.Ready()

	client := startProxyless(t, m, "reports", "reports-1", true)
	other := startProxyless(t, m, "audits", "audits-1", true)
	for _, c := range []*proxyless{client, other} {
		c.reaches("grpc_service", "grpc-1", "grpc-2")
	}
	for _, id := range []string{"grpc-1", "grpc-2"} {
		inbound := fmt.Sprintf("listener.127.0.0.1_%d.ssl.", m.Sidecar(id).MeshPort)
		if s := m.Stats(id); s[inbound+"handshake"] < 2 || s[inbound+"versions.TLSv1.3"] < 2 {
			t.Errorf("%s: %v", id, s.Prefix(inbound))
		}
	}
	// A server without a sidecar takes no mTLS: it is not called in plaintext.
	if a := client.call("plain_service"); a.Code != codes.Unavailable || plain.App.Count() != 0 {
		t.Errorf("plain_service: %+v, %d calls", a, plain.App.Count())
	}
	checkProxyless(t, m, "reports-1")
	checkProxyless(t, m, "audits-1")
	// It is in Prometheus's list no more than it has metrics.
	if status, body, err := m.Plane.Get("/sd/prometheus"); err != nil || status != 200 || strings.Contains(body, "reports") || !strings.Contains(body, "grpc-1") {
		t.Errorf("/sd/prometheus: %d, %v: %s", status, err, body)
	}

	deny := `        - {name: no-reports, action: DENY, sources: [reports], destinations: [grpc_service]}
`
	handshakes := func() (n uint64) {
		for _, id := range []string{"grpc-1", "grpc-2"} {
			n += m.Stats(id)[fmt.Sprintf("listener.127.0.0.1_%d.ssl.handshake", m.Sidecar(id).MeshPort)]
		}
		return n
	}
	before := handshakes()
	edit := func(policies string, want codes.Code) {
		t.Helper()
		m.Edit(withPolicies(policies) + proxylessServices)
		refused := 0
		harness.Eventually(t, fmt.Sprintf("both instances answer %s", want), 10*time.Second, func() error {
			a := client.call("grpc_service")
			if a.Code != want {
				refused = 0
				return fmt.Errorf("%+v", a)
			}
			if refused++; refused < 20 {
				return fmt.Errorf("%d times", refused)
			}
			if want == codes.PermissionDenied && !strings.Contains(a.Error, "RBAC: access denied") {
				return fmt.Errorf("%+v", a)
			}
			return nil
		})
	}
	edit(admitTheMesh+deny, codes.PermissionDenied)
	other.calls("grpc_service", 20) // is not reports
	edit(admitTheMesh, codes.OK)
	if after := handshakes(); after != before {
		t.Errorf("the edits cost %d handshakes", after-before)
	}

	// Its configuration is its own: it calls while the control plane is away,
	// and goes on where it was when that is back.
	m.Plane.Kill()
	client.calls("grpc_service", 20)
	m.StartPlane()
	client.calls("grpc_service", 20)
	m.SetHealth("grpc-2", run.Critical)
	client.reaches("grpc_service", "grpc-1")
	checkProxyless(t, m, "reports-1")
}
