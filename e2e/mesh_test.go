package e2e

import (
	"strings"
	"testing"

	"datapunk.dev/controlplane/e2e/harness"
	"datapunk.dev/controlplane/e2e/traffic"
)

// seedMesh starts the services of the operators' file: nexus, two of
// lake_service and one of stream_service.
func seedMesh(t *testing.T, o harness.Options) *harness.Mesh {
	t.Helper()
	m := harness.Start(t, o)
	for _, spec := range []harness.Spec{
		{Service: "nexus", ID: "nexus-1"},
		{Service: "lake_service", ID: "lake-1"},
		{Service: "lake_service", ID: "lake-2"},
		{Service: "stream_service", ID: "stream-1"},
	} {
		m.Add(spec)
	}
	m.Ready()
	return m
}

// checkSeedMesh makes nexus call both services, and looks who served.
func checkSeedMesh(t *testing.T, m *harness.Mesh) {
	t.Helper()
	for service, instances := range map[string][]string{"lake_service": {"lake-1", "lake-2"}, "stream_service": {"stream-1"}} {
		r := traffic.Load{Addr: m.Sidecar("nexus-1").Outbound(), Request: traffic.Request{Host: service}, Requests: 100}.Do(t.Context())
		if r.Failed() > 0 {
			t.Errorf("%s: %s", service, r)
		}
		for _, id := range instances {
			if r.Instances[id] == 0 {
				t.Errorf("%s: %s served nothing: %s", service, id, r)
			}
		}
	}
}

func TestMeshOfAFileCatalogWithoutMTLS(t *testing.T) {
	m := seedMesh(t, harness.Options{Overlay: harness.MTLSOff, Plaintext: true})
	checkSeedMesh(t, m)
}

func TestMeshOfConsulWithMTLS(t *testing.T) {
	m := seedMesh(t, harness.Options{Consul: true})
	checkSeedMesh(t, m)

	r := m.Call("nexus", "lake_service", "/")
	xfcc := r.Reply.Headers["x-forwarded-client-cert"]
	for _, end := range []string{"By=spiffe://datapunk/lake_service;", ";URI=spiffe://datapunk/nexus"} {
		if !strings.Contains(xfcc+";", end) {
			t.Errorf("x-forwarded-client-cert is %q, want %q in it", xfcc, end)
		}
	}
}
