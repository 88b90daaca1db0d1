package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"datapunk.dev/controlplane/e2e/app"
	"datapunk.dev/controlplane/e2e/harness"
	"datapunk.dev/controlplane/e2e/run"
	"datapunk.dev/controlplane/e2e/traffic"
)

func TestKeyThatOthersCanReadIsRefusedWithOneLine(t *testing.T) {
	m := harness.Start(t, harness.Options{Overlay: quietMesh})
	noError(t, m.Plane.Stop())
	data := filepath.Dir(m.Plane.CAFile())
	serve := []string{"-f", m.MeshFile(0), "-f", m.MeshFile(1), "--data-dir", data, "--xds-address", m.Plane.XDSAddress()}

	for _, name := range []string{"ca-key.pem", "token-key.pem"} {
		file := filepath.Join(data, name)
		info, err := os.Stat(file)
		noError(t, err)
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s was made with mode %04o", name, info.Mode().Perm())
		}
		for _, mode := range []os.FileMode{0o640, 0o604, 0o644, 0o620} {
			noError(t, os.Chmod(file, mode))
			serveRefuses(t, m, 1, fmt.Sprintf("%s can be read by others (mode %04o)", file, mode), serve...)
		}
		noError(t, os.Chmod(file, 0o600))
	}
	t.Run("a directory in which others can write", func(t *testing.T) {
		noError(t, os.Chmod(data, 0o777))
		serveRefuses(t, m, 1, data+" can be written by others", serve...)
		noError(t, os.Chmod(data, 0o700))
	})
	t.Run("the key of another authority", func(t *testing.T) {
		other := harness.Start(t, harness.Options{Overlay: quietMesh})
		key, err := os.ReadFile(filepath.Join(filepath.Dir(other.Plane.CAFile()), "ca-key.pem"))
		noError(t, err)
		own, err := os.ReadFile(filepath.Join(data, "ca-key.pem"))
		noError(t, err)
		noError(t, os.WriteFile(filepath.Join(data, "ca-key.pem"), key, 0o600))
		serveRefuses(t, m, 1, "ca-key.pem is not the key of ", serve...)
		noError(t, os.WriteFile(filepath.Join(data, "ca-key.pem"), own, 0o600))
	})
	t.Run("put right", func(t *testing.T) { m.StartPlane() })
}

func TestSecondControlPlaneWithACopyOfTheDataDirectoryTakesTheFleetOverAndSendsNothingAgain(t *testing.T) {
	address := "127.0.0.1:" + strconv.Itoa(harness.Port(t))
	bankPort := harness.Port(t)
	overlay := withPolicies(admitTheMesh) + fmt.Sprintf(`  services:
    bank: {protocol: tcp}
    nexus: {upstreams: [lake_service, {service: bank, local_bind_port: %d}]}
`, bankPort)
	m := harness.Start(t, harness.Options{Overlay: overlay})
	flags := []string{"--xds-address", address}
	lake := m.Add(harness.Spec{Service: "lake_service", ID: "lake-1", Flags: flags})
	m.Add(harness.Spec{Service: "bank", ID: "bank-1", SpeaksTCP: true, Banner: banner, Flags: flags})
	m.Add(harness.Spec{Service: "nexus", ID: "nexus-1", Scoped: true, Flags: flags})
	nodes := []string{"lake-1", "bank-1", "nexus-1"}
	m.Ready()

	copied := filepath.Join(m.Dir, "copy")
	noError(t, os.CopyFS(copied, os.DirFS(filepath.Dir(m.Plane.CAFile()))))
	noError(t, os.Chmod(copied, 0o700))
	for _, key := range []string{"ca-key.pem", "token-key.pem"} {
		noError(t, os.Chmod(filepath.Join(copied, key), 0o600))
	}
	second, err := run.StartControlPlane(run.PlaneOptions{
		Name: "second", Binary: harness.Binary(), Dir: m.Dir, Files: []string{m.MeshFile(0), m.MeshFile(1)}, Catalog: m.Catalog,
		XDSAddress: address, Admin: "127.0.0.1:" + strconv.Itoa(harness.Port(t)), DataDir: copied,
	})
	noError(t, err)
	t.Cleanup(func() { noError(t, second.Stop()) })
	noError(t, second.WaitReady(t.Context(), 20*time.Second))

	type state struct {
		versions map[string]string
		stats    run.Stats
		leaf     string
	}
	look := func(node string) state {
		leaves, _, err := m.Sidecar(node).Envoy.Certs()
		noError(t, err)
		return state{m.Dump(node).Versions(), still(t, m.Stats(node)), leaves[0].Serial}
	}
	lake.App.Behave(app.Behavior{Delay: 10 * time.Millisecond})
	load := m.Load("nexus-1", "lake_service", traffic.Load{})
	harness.Eventually(t, "the load runs", 5*time.Second, func() error {
		if n := load.Snapshot().Requests; n < 20 {
			return fmt.Errorf("%d requests", n)
		}
		return nil
	})
	before := make(map[string]state)
	for _, node := range nodes {
		before[node] = look(node)
	}
	m.Plane.Kill()
	noError(t, second.WaitSynced(t.Context(), 30*time.Second, nodes...))

	metrics, err := second.Metrics()
	noError(t, err)
	for _, typ := range []string{"cluster", "endpoint", "secret", "listener", "route"} {
		sent, known := metrics[fmt.Sprintf("controlplane_xds_pushes_total{type=%q}", typ)]
		if sent != 0 || !known {
			t.Errorf("the second control plane sent %v responses of type %s", sent, typ)
		}
	}
	for _, node := range nodes {
		after := look(node)
		for name, n := range after.stats {
			if strings.HasPrefix(name, "cluster.xds.") {
				continue // the connection to the control plane is another
			}
			if n != before[node].stats[name] {
				t.Errorf("%s: %s went from %d to %d", node, name, before[node].stats[name], n)
			}
		}
		if fmt.Sprint(after.versions) != fmt.Sprint(before[node].versions) {
			t.Errorf("%s: before\n%v\nafter\n%v", node, before[node].versions, after.versions)
		}
		if after.leaf != before[node].leaf {
			t.Errorf("%s has another certificate, %s after %s", node, after.leaf, before[node].leaf)
		}
	}

	// It has the fleet: what changes from now on comes from it, and its
	// certificates are good to those of the first.
	m.Add(harness.Spec{Service: "lake_service", ID: "lake-2", Flags: flags})
	harness.Eventually(t, "lake-2 serves", 30*time.Second, func() error {
		if r := load.Snapshot(); r.Instances["lake-2"] == 0 {
			return fmt.Errorf("served by %v", r.Instances)
		}
		return nil
	})
	if heard, err := traffic.Hear(t.Context(), "127.0.0.1:"+strconv.Itoa(bankPort), 500*time.Millisecond); heard != banner {
		t.Errorf("bank says %q, %v", heard, err)
	}
	if r := load.Stop(); r.Failed() > 0 || r.Requests < 100 {
		t.Errorf("load: %s", r)
	}
}
