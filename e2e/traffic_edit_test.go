package e2e

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"datapunk.dev/controlplane/e2e/harness"
	"datapunk.dev/controlplane/internal/tool"
)

// versions are those of all that the sidecars run, by node, type and name, and
// when they got them: Envoy goes on to show the old version of a listener of
// which only the filter chains changed. Which version of an assignment it has,
// it does not say at all, so that the control plane has to.
func versions(m *harness.Mesh) (map[string]map[string]string, error) {
	proxies, err := m.Plane.Proxies()
	if err != nil {
		return nil, err
	}
	all := make(map[string]map[string]string)
	for _, s := range m.Sidecars() {
		dump, err := s.Envoy.ConfigDump()
		if err != nil {
			return nil, err
		}
		of := map[string]string{"endpoint": proxies[s.ID].Types["endpoint"].Sent}
		for _, r := range dump.Resources {
			if r.Version == "" {
				continue // of the bootstrap, or an assignment
			}
			key := r.Type + " " + r.Name
			if r.State == "warming" {
				key += " (warming)"
			}
			of[key] = r.Version + " of " + r.Updated.String()
		}
		all[s.ID] = of
	}
	return all, nil
}

// moved are the resources of one sidecar that differ, come or go.
func moved(before, after map[string]string) []string {
	var out []string
	for key := range before {
		if after[key] != before[key] {
			out = append(out, key)
		}
	}
	for key := range after {
		if _, ok := before[key]; !ok {
			out = append(out, key)
		}
	}
	slices.Sort(out)
	return out
}

// editor edits the mesh file key by key and knows what was before.
type editor struct {
	m      *harness.Mesh
	asked  *asked // of Consul; nil with a file catalog
	before map[string]map[string]string
}

// edit replaces a part of the file, and waits until it has the effect that it
// should: at shows the value, and these resources moved and no others. What
// moves later than that is found by the next edit.
func (e *editor) edit(t *testing.T, k seedKey, old, edited string, want any) {
	t.Helper()
	counter := "controlplane_mesh_reloads_total"
	if k.refused != "" {
		counter = "controlplane_mesh_reload_errors_total"
	}
	loads := e.m.Metrics()[counter]
	e.m.EditSeed(old, edited)
	moves := slices.Sorted(slices.Values(k.moves))
	var after map[string]map[string]string
	err := tool.Until(t.Context(), k.key, 10*time.Second, func() error {
		if n := e.m.Metrics()[counter] - loads; n != 1 {
			return fmt.Errorf("%s moved by %v", counter, n)
		}
		s, err := look(e.m, e.asked)
		if err != nil {
			return err
		}
		if k.at != nil && fmt.Sprint(k.at(s)) != fmt.Sprint(want) {
			return fmt.Errorf("it shows up as %v, want %v", k.at(s), want)
		}
		if after, err = versions(e.m); err != nil {
			return err
		}
		for _, node := range slices.Sorted(maps.Keys(after)) {
			if got := moved(e.before[node], after[node]); !slices.Equal(got, moves) {
				return fmt.Errorf("on %s moved %q, want %q", node, got, moves)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if after != nil {
		e.before = after
	}
}

// TestAnEditOfOneKeyReachesWhatItShouldAndNothingElse edits the operators' file
// key by key under real Envoys.
func TestAnEditOfOneKeyReachesWhatItShouldAndNothingElse(t *testing.T) {
	m := threeServices(t, harness.Options{})
	before, err := versions(m)
	if err != nil {
		t.Fatal(err)
	}
	for node, of := range before {
		// What the edits say of this much is something.
		for _, key := range []string{"cluster nexus", "cluster local_app", "listener inbound", "listener metrics", "route outbound/lake_service", "scoped_route lake_service", "route inbound", "secret default", "secret ROOTCA", "endpoint"} {
			if of[key] == "" {
				t.Fatalf("%s: no version of %s: %v", node, key, of)
			}
		}
	}
	e := &editor{m: m, before: before}
	for _, k := range seedKeys() {
		e.edit(t, k, k.old, k.edited, k.then)
		switch {
		case k.refused != "":
			if last := strings.Join(m.Plane.Log.Lines(), "\n"); !strings.Contains(last, k.refused) {
				t.Errorf("%s: the log does not have the code %s", k.key, k.refused)
			}
			m.EditSeed(k.edited, k.old)
			harness.Eventually(t, "the file is good again", 5*time.Second, func() error {
				if m.Metrics()["controlplane_mesh_rejected"] != 0 {
					return fmt.Errorf("it is refused")
				}
				return nil
			})
		case k.alone:
			e.edit(t, k, k.edited, k.old, k.now)
		}
	}
	if text, err := os.ReadFile(m.MeshFile(0)); err != nil || strings.Contains(string(text), "cert_rotation: 24h") {
		t.Errorf("the edits did not reach the file: %v", err)
	}
}
