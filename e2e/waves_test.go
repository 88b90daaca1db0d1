package e2e

import (
	"errors"
	"fmt"
	"net"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"datapunk.dev/controlplane/e2e/harness"
	"datapunk.dev/controlplane/e2e/run"
)

const (
	inWaves = "  edits: {waves: true, bake: 2s}\n\n  circuit_breakers:\n"
	// manyMethods is an edit of which takesNoLargeRegex refuses what is made.
	manyMethods = "    retry:\n      methods: [GET, HEAD, OPTIONS, PUT, DELETE, POST, PATCH]\n"
)

// refusedOf are the Envoys that have refused anything.
func refusedOf(m *harness.Mesh, ids ...string) (who []string) {
	for _, id := range ids {
		for name, n := range m.Stats(id) {
			if strings.HasSuffix(name, ".update_rejected") && n > 0 {
				who = append(who, id)
				break
			}
		}
	}
	return who
}

// TestABadEditReachesOneEnvoyAndIsTakenBack: three Envoys would all refuse an edit. One is
// sent it, refuses it, and is sent the last file; the others never see it, over a restart of
// the control plane too. One that is good comes to all. No call fails.
func TestABadEditReachesOneEnvoyAndIsTakenBack(t *testing.T) {
	t.Parallel()
	m := harness.Start(t, harness.Options{Consul: true, Allowed: []string{"RE2 program size"}})
	ids := []string{"nexus-1", "lake-1", "lake-2"}
	for _, id := range ids {
		service := map[bool]string{true: "nexus", false: "lake_service"}[id == "nexus-1"]
		m.Add(harness.Spec{Service: service, ID: id, Bootstrap: takesNoLargeRegex})
	}
	m.Ready()
	m.EditSeed("  circuit_breakers:\n", inWaves)
	good, err := os.ReadFile(m.MeshFile(0))
	noError(t, err)
	time.Sleep(30 * time.Second) // after a start the fleet is waited for
	versions := make(map[string]map[string]string)
	for _, id := range ids {
		versions[id] = m.Dump(id).Versions()
	}

	f := begin(t, m)
	m.EditSeed("    retry:\n", manyMethods)
	f.said(20*time.Second, "was taken back")
	refusers := refusedOf(m, ids...)
	if len(refusers) != 1 {
		t.Fatalf("%v have refused it, want one", refusers)
	}
	harness.Eventually(t, "all have what they had", 10*time.Second, func() error {
		for _, id := range ids {
			p := m.Proxies()[id]
			if err := p.Synced(); err != nil {
				return fmt.Errorf("%s: %w", id, err)
			}
			if id != refusers[0] && !sameVersions(versions[id], m.Dump(id).Versions()) {
				t.Fatalf("%s was sent something", id)
			}
		}
		return nil
	})
	_, ready, err := m.Plane.Readyz()
	noError(t, err)
	if holding := strings.Join(ready.Holding, "\n"); !strings.Contains(holding, refusers[0]) || !strings.Contains(holding, "RE2") {
		t.Errorf("/readyz holds %q, which does not say who refuses what", holding)
	}
	if out := asks(m, "status"); !strings.Contains(out.Stdout, "was taken back") {
		t.Errorf("controlplane status does not say it:\n%s", out.Stdout)
	}
	if n := m.Metrics()["controlplane_mesh_taken_back_total"]; n != 1 {
		t.Errorf("controlplane_mesh_taken_back_total is %v", n)
	}

	noError(t, m.Plane.Stop())
	noError(t, m.Plane.Start())
	noError(t, m.Plane.WaitReady(t.Context(), 20*time.Second))
	harness.Eventually(t, "the edit is tried again after the restart", time.Minute, func() error {
		_, ready, err := m.Plane.Readyz()
		if err == nil && !strings.Contains(strings.Join(ready.Holding, "\n"), "was taken back") {
			err = fmt.Errorf("holding %q", ready.Holding)
		}
		return err
	})
	if again := refusedOf(m, ids...); len(again) != 1 {
		t.Errorf("after the restart %v have refused it, want one", again)
	}

	f.now()
	noError(t, os.WriteFile(m.MeshFile(0), []byte(strings.Replace(string(good), "max_connections: 1024", "max_connections: 1023", 1)), 0o600))
	f.well("a good edit is with all", 30*time.Second, func() error {
		for _, id := range ids {
			if !hasLimit(m, id) {
				return fmt.Errorf("%s does not have it", id)
			}
		}
		return nil
	})
	f.end()
}

// hasLimit reports whether an Envoy has an edit of circuit_breakers.default.
func hasLimit(m *harness.Mesh, id string) bool {
	nexus := m.Resource(id, "cluster", "nexus")
	return nexus != nil && fmt.Sprint(nexus.Field("circuit_breakers.thresholds.0.max_connections")) == "1023"
}

// sameVersions reports whether an Envoy has what it had, but for certificates.
func sameVersions(a, b map[string]string) bool {
	if len(a) != len(b) {
		return false
	}
	for name, v := range a {
		if !strings.HasPrefix(name, "secret ") && b[name] != v {
			return false
		}
	}
	return true
}

// TestAnEditIsTakenBackWhenTheEnvoyThatHasItDies: an Envoy that has an edit before the
// others is killed, and the others keep the last file, until somebody says that it is meant.
func TestAnEditIsTakenBackWhenTheEnvoyThatHasItDies(t *testing.T) {
	t.Parallel()
	m := harness.Start(t, harness.Options{})
	m.Add(harness.Spec{Service: "nexus", ID: "nexus-1"})
	ids := []string{"lake-1", "lake-2", "lake-3"}
	for _, id := range ids {
		m.Add(harness.Spec{Service: "lake_service", ID: id})
	}
	m.Ready()
	m.EditSeed("  circuit_breakers:\n", strings.Replace(inWaves, "2s", "30s", 1))
	time.Sleep(30 * time.Second)
	m.EditSeed("max_connections: 1024", "max_connections: 1023")
	victim := ""
	harness.Eventually(t, "one has it", 20*time.Second, func() error {
		for _, id := range append(ids, "nexus-1") {
			if hasLimit(m, id) {
				victim = id
				return nil
			}
		}
		return fmt.Errorf("metrics: %v", m.Metrics()["controlplane_mesh_canaries"])
	})
	m.Sidecar(victim).Kill()
	began := time.Now()
	harness.Eventually(t, "it is taken back", 20*time.Second, func() error {
		_, ready, err := m.Plane.Readyz()
		if err == nil && !strings.Contains(strings.Join(ready.Holding, "\n"), "is gone") {
			err = fmt.Errorf("holding %q", ready.Holding)
		}
		return err
	})
	t.Logf("measured: taken back %.1f s after the Envoy was killed", time.Since(began).Seconds())
	for _, id := range append(ids, "nexus-1") {
		if id != victim && hasLimit(m, id) {
			t.Errorf("%s has the edit", id)
		}
	}
	_, ready, err := m.Plane.Readyz()
	noError(t, err)
	found := regexp.MustCompile(`accept --revision ([0-9a-f]{12})`).FindStringSubmatch(strings.Join(ready.Holding, "\n"))
	if found == nil {
		t.Fatalf("holding %q, which does not say how it comes into force", ready.Holding)
	}
	if out := m.CLI("accept", "--revision", found[1], "--data-dir", m.Plane.DataDir()); out.Code != 0 {
		t.Fatal(out.Stderr)
	}
	harness.Eventually(t, "it is meant, and all have it", 10*time.Second, func() error {
		for _, id := range append(ids, "nexus-1") {
			if id != victim && !hasLimit(m, id) {
				return fmt.Errorf("%s does not have it", id)
			}
		}
		return nil
	})
}

// TestOfSeveralReplicasOneTriesAnEdit: two control planes have two Envoys each. A good edit is
// in force at the one that leads before the other tries it; of a bad one a single Envoy of
// the whole fleet hears, and both keep the last file.
func TestOfSeveralReplicasOneTriesAnEdit(t *testing.T) {
	t.Parallel()
	m := harness.Start(t, harness.Options{Consul: true, Flags: electing, Allowed: []string{"RE2 program size"}})
	second := another(t, m, "second")
	port := func(p *run.ControlPlane) string {
		_, port, err := net.SplitHostPort(p.Options().XDSAddress)
		noError(t, err)
		return port
	}
	ids := []string{"nexus-1", "nexus-2", "lake-1", "lake-2"}
	for i, id := range ids {
		m.Add(harness.Spec{Service: []string{"nexus", "nexus", "lake_service", "lake_service"}[i], ID: id, Bootstrap: func(s *harness.Sidecar, printed string) string {
			if i%2 == 1 {
				printed = strings.ReplaceAll(printed, port(m.Plane), port(second))
			}
			return takesNoLargeRegex(s, printed)
		}})
	}
	planes := []*run.ControlPlane{m.Plane, second}
	harness.Eventually(t, "they agree, and have two Envoys each", 30*time.Second, func() error {
		n, err := envoysAt(planes)
		if err == nil && (n[0] != 2 || n[1] != 2) {
			err = fmt.Errorf("they have %v", n)
		}
		return errors.Join(err, inStep(planes...))
	})
	holding := func(p *run.ControlPlane) string {
		_, ready, err := p.Readyz()
		noError(t, err)
		return strings.Join(ready.Holding, "\n")
	}
	m.EditSeed("  circuit_breakers:\n", inWaves)
	time.Sleep(30 * time.Second)

	m.EditSeed("max_connections: 1024", "max_connections: 1023")
	leader := leaderOf(t, planes)
	var had []string // in this order
	harness.Eventually(t, "all have the edit", 40*time.Second, func() error {
		for _, id := range ids {
			if !slices.Contains(had, id) && hasLimit(m, id) {
				had = append(had, id)
			}
		}
		if len(had) < len(ids) {
			return fmt.Errorf("%v have it", had)
		}
		return nil
	})
	first := map[bool][]string{true: {"nexus-1", "lake-1"}, false: {"nexus-2", "lake-2"}}[leader == m.Plane]
	if !slices.Contains(first, had[0]) || !slices.Contains(first, had[1]) {
		t.Errorf("they had it in the order %v, want those of the leader, %v, first", had, first)
	}

	harness.Eventually(t, "nothing is held", 20*time.Second, func() error {
		if text := holding(m.Plane) + holding(second); text != "" {
			return errors.New(text)
		}
		return nil
	})
	m.EditSeed("    retry:\n", manyMethods)
	harness.Eventually(t, "both say that it was taken back", 20*time.Second, func() error {
		for _, p := range planes {
			if text := holding(p); !strings.Contains(text, "was taken back") {
				return fmt.Errorf("%s holds %q", p.Name, text)
			}
		}
		return nil
	})
	if refusers := refusedOf(m, ids...); len(refusers) != 1 || !slices.Contains(first, refusers[0]) {
		t.Errorf("%v have refused it, want one of %v", refusers, first)
	}
	for _, p := range planes {
		if text := holding(p); p != leader && !strings.Contains(text, "has taken it back: ") {
			t.Errorf("%s holds %q", p.Name, text)
		}
	}
}
