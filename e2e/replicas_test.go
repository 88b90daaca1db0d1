package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"datapunk.dev/controlplane/admin/api"
	"datapunk.dev/controlplane/e2e/harness"
	"datapunk.dev/controlplane/e2e/run"
)

// electing is how several control planes are started.
var electing = []string{"--leader", "consul"}

// another starts one more replica, with a copy of the first one's keys.
func another(t testing.TB, m *harness.Mesh, name string) *run.ControlPlane {
	t.Helper()
	return startReplica(t, replicaOptions(t, m, name))
}

func startReplica(t testing.TB, o run.PlaneOptions) *run.ControlPlane {
	t.Helper()
	p, err := run.StartControlPlane(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if p.Running() {
			_ = p.Stop()
		}
	})
	if err := p.WaitReady(t.Context(), 30*time.Second); err != nil {
		t.Fatal(err)
	}
	return p
}

func replicaOptions(t testing.TB, m *harness.Mesh, name string) run.PlaneOptions {
	t.Helper()
	o := m.Plane.Options()
	ports, err := m.Ports.TakeN(2)
	if err != nil {
		t.Fatal(err)
	}
	o.Name = name
	o.XDSAddress, o.Admin = "127.0.0.1:"+strconv.Itoa(ports[0]), "127.0.0.1:"+strconv.Itoa(ports[1])
	o.DataDir = filepath.Join(m.Dir, name)
	if err := os.MkdirAll(o.DataDir, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"ca.pem", "ca-key.pem", "token-key.pem"} {
		data, err := os.ReadFile(filepath.Join(m.Plane.DataDir(), file))
		if err == nil {
			err = os.WriteFile(filepath.Join(o.DataDir, file), data, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return o
}

func replicasOf(p *run.ControlPlane) (r api.Replicas, err error) {
	status, body, err := p.Get("/api/v1/replicas")
	if err != nil {
		return r, err
	}
	if status != 200 {
		return r, fmt.Errorf("%d: %s", status, body)
	}
	return r, json.Unmarshal([]byte(body), &r)
}

// inStep is nil when all know each other, serve the same, and know one leader.
func inStep(planes ...*run.ControlPlane) error {
	leads := 0
	var first api.Replicas
	for i, p := range planes {
		r, err := replicasOf(p)
		if err != nil {
			return err
		}
		if r.Trouble != "" || r.Leader == "" || len(r.Replicas) != len(planes) {
			return fmt.Errorf("%s knows %+v", p.Name, r)
		}
		if r.Leads {
			leads++
		}
		if i == 0 {
			first = r
		}
		if r.Leader != first.Leader {
			return fmt.Errorf("to %s %s leads, to %s %s", p.Name, r.Leader, planes[0].Name, first.Leader)
		}
		for _, one := range r.Replicas {
			if one.Catalog == "" || one.Catalog != first.Replicas[0].Catalog || one.MeshRevision != first.Replicas[0].MeshRevision {
				return fmt.Errorf("they do not serve the same: %+v", r.Replicas)
			}
		}
	}
	if leads != 1 {
		return fmt.Errorf("%d lead", leads)
	}
	return nil
}

// leaders is how many of the replicas lead.
func leaders(planes []*run.ControlPlane) (n int, err error) {
	for _, p := range planes {
		metrics, err := p.Metrics()
		if err != nil {
			return 0, err
		}
		n += int(metrics["controlplane_leader"])
	}
	return n, nil
}

func leaderOf(t *testing.T, planes []*run.ControlPlane) *run.ControlPlane {
	t.Helper()
	for _, p := range planes {
		if n, err := leaders([]*run.ControlPlane{p}); err == nil && n == 1 {
			return p
		}
	}
	t.Fatal("nobody leads")
	return nil
}

// TestReplicasElectALeader: two real processes and a real Consul.
func TestReplicasElectALeader(t *testing.T) {
	t.Parallel() // it waits, most of the time
	m := harness.Start(t, harness.Options{Consul: true, Flags: electing})
	second := another(t, m, "second")
	harness.Eventually(t, "they agree", 20*time.Second, func() error { return inStep(m.Plane, second) })

	out := m.CLI("status", "--admin-address", second.AdminAddress())
	if out.Code != 0 || strings.Count(out.Stdout, "leads") != 1 || strings.Count(out.Stdout, "asked") != 1 || !strings.Contains(out.Stdout, "mTLS at step") {
		t.Errorf("controlplane status: %d\n%s%s", out.Code, out.Stdout, out.Stderr)
	}
	sum := 0.0
	for _, p := range []*run.ControlPlane{m.Plane, second} {
		metrics, err := p.Metrics()
		if err != nil {
			t.Fatal(err)
		}
		sum += metrics["controlplane_leader"]
		if metrics["controlplane_replicas"] != 2 || metrics["controlplane_replica_ready"] != 1 || metrics["controlplane_replica_disagreement_seconds"] != 0 {
			t.Errorf("%s: %v replicas, ready %v, apart %v", p.Name, metrics["controlplane_replicas"], metrics["controlplane_replica_ready"], metrics["controlplane_replica_disagreement_seconds"])
		}
	}
	if sum != 1 {
		t.Errorf("controlplane_leader sums up to %v", sum)
	}

	// The leader is killed: the other leads when its session is over.
	r, err := replicasOf(m.Plane)
	if err != nil {
		t.Fatal(err)
	}
	leader, other := m.Plane, second
	if !r.Leads {
		leader, other = second, m.Plane
	}
	leader.Kill()
	killed := time.Now()
	harness.Eventually(t, "the other leads", 40*time.Second, func() error { return inStep(other) })
	t.Logf("the other leads after %s", time.Since(killed).Round(100*time.Millisecond))

	// Consul goes: it serves on, says so, and leads nothing.
	m.Consul.Kill()
	harness.Eventually(t, "it says that it is alone", 60*time.Second, func() error {
		status, ready, err := other.Readyz()
		switch {
		case err != nil:
			return err
		case status != 200:
			return fmt.Errorf("/readyz is %d", status)
		case !strings.Contains(strings.Join(ready.Holding, "\n"), "what the replicas share"):
			return fmt.Errorf("it holds %q", ready.Holding)
		}
		if r, err := replicasOf(other); err != nil || r.Leads {
			return errors.Join(err, fmt.Errorf("it leads: %v", r.Leads))
		}
		return nil
	})
}

// TestAReplicaBesideAFileFindsNoOthers: it says what is wrong, at the start.
func TestAReplicaBesideAFileFindsNoOthers(t *testing.T) {
	m := harness.New(t, harness.Options{Flags: electing})
	if err := m.Plane.Start(); err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, "it ends", 20*time.Second, func() error {
		if m.Plane.Running() {
			return errors.New("it runs")
		}
		return nil
	})
	if text := m.Plane.Log.Tail(20); !strings.Contains(text, "the catalog comes from a file") {
		t.Errorf("the log: %s", text)
	}
}

// TestAnOlderMeshFileAtAnotherReplicaIsSeen: by both, with what each serves, and no more
// once they have the same.
func TestAnOlderMeshFileAtAnotherReplicaIsSeen(t *testing.T) {
	m := harness.Start(t, harness.Options{Consul: true, Flags: electing})
	text, err := os.ReadFile(m.MeshFile(0))
	if err != nil {
		t.Fatal(err)
	}
	o := replicaOptions(t, m, "second")
	o.Files = slices.Clone(o.Files)
	o.Files[0] = filepath.Join(m.Dir, "older.yaml")
	older := regexp.MustCompile(`(?m)^(\s*version: ).*`).ReplaceAll(text, []byte("${1}\"0.0.1\""))
	if string(older) == string(text) {
		t.Fatal("the mesh file has no version to change")
	}
	if err := os.WriteFile(o.Files[0], older, 0o600); err != nil {
		t.Fatal(err)
	}
	second := startReplica(t, o)
	harness.Eventually(t, "both say that they disagree", 60*time.Second, func() error {
		for _, p := range []*run.ControlPlane{m.Plane, second} {
			metrics, err := p.Metrics()
			if err != nil {
				return err
			}
			if s := metrics["controlplane_replica_disagreement_seconds"]; s < 5 {
				return fmt.Errorf("%s: for %v s", p.Name, s)
			}
			r, err := replicasOf(p)
			if err != nil {
				return err
			}
			if len(r.Replicas) != 2 || r.Replicas[0].MeshRevision == r.Replicas[1].MeshRevision || r.Replicas[0].DisagreesFor+r.Replicas[1].DisagreesFor == "" {
				return fmt.Errorf("%s: %+v", p.Name, r.Replicas)
			}
		}
		return nil
	})
	if out := m.CLI("status", "--admin-address", second.AdminAddress()); out.Code != 0 || !regexp.MustCompile(`\d+s\s*\n`).MatchString(out.Stdout) {
		t.Errorf("controlplane status: %d\n%s%s", out.Code, out.Stdout, out.Stderr)
	}
	if err := os.Rename(o.Files[0], o.Files[0]+".old"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(o.Files[0], text, 0o600); err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, "they agree", 30*time.Second, func() error {
		metrics, err := second.Metrics()
		if err == nil && metrics["controlplane_replica_disagreement_seconds"] != 0 {
			err = fmt.Errorf("for %v s", metrics["controlplane_replica_disagreement_seconds"])
		}
		return errors.Join(err, inStep(m.Plane, second))
	})
}
