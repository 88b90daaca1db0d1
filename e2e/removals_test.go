package e2e

import (
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"datapunk.dev/controlplane/e2e/harness"
	"datapunk.dev/controlplane/internal/tool"
)

// decides runs `controlplane removals` against the plane of a mesh.
func decides(m *harness.Mesh, args ...string) tool.Output {
	args = append([]string{"removals"}, args...)
	return m.CLI(append(args, "--admin-address", m.Plane.AdminAddress())...)
}

// TestAnOperatorDecidesOnARemoval: all of a service leave Consul while their sidecars
// live. What is held is shown with what accepting it does; refused it stays, and
// accepted it goes.
func TestAnOperatorDecidesOnARemoval(t *testing.T) {
	t.Parallel()
	m := harness.Start(t, harness.Options{Consul: true})
	m.Add(harness.Spec{Service: "nexus", ID: "nexus-1"})
	for _, id := range []string{"lake-1", "lake-2"} {
		m.Add(harness.Spec{Service: "lake_service", ID: id})
	}
	m.Ready()
	served(t, m, "lake-1", "lake-2")
	if out := decides(m, "list"); !strings.Contains(out.Stdout, "no removal is held") {
		t.Errorf("list: %+v", out)
	}
	m.Deregister("lake-1")
	m.Deregister("lake-2")
	var said string
	listed := func(pattern string) string {
		t.Helper()
		harness.Eventually(t, "it is listed", 10*time.Second, func() error {
			if said = decides(m, "list").Stdout; !regexp.MustCompile(pattern).MatchString(said) {
				return errors.New(said)
			}
			return nil
		})
		return regexp.MustCompile("(?m)^[0-9a-f]{12}").FindString(said)
	}
	id := listed(`2 of 2 instances of lake_service vanish, the last ones: calls of it are answered 503; 2 have their sidecars connected; .* proxies of .*nexus`)
	t.Log(said)
	if out := decides(m, "refuse", id, "--data-dir", m.Plane.DataDir()); !strings.Contains(out.Stdout, "refused: 2 instances of lake_service stay") {
		t.Fatalf("refuse: %+v", out)
	}
	time.Sleep(7 * time.Second) // two confirming reads
	served(t, m, "lake-1", "lake-2")
	id = listed("it was refused")
	if out := decides(m, "accept", id, "--data-dir", m.Plane.DataDir()); !strings.Contains(out.Stdout, "accepted: 2 of 2 instances") {
		t.Fatalf("accept: %+v", out)
	}
	harness.Eventually(t, "nobody calls them", 10*time.Second, func() error {
		if r := m.Call("nexus-1", "lake_service", "/"); r.Status != http.StatusServiceUnavailable {
			return fmt.Errorf("a call: %s", r)
		}
		return nil
	})
	metrics := m.Metrics()
	for _, name := range []string{`controlplane_catalog_removals_decided_total{decision="accept"}`, `controlplane_catalog_removals_decided_total{decision="refuse"}`, `controlplane_catalog_removals_ended_total{outcome="accepted"}`} {
		if metrics[name] < 1 {
			t.Errorf("%s is %v", name, metrics[name])
		}
	}
	// The word was on what was held then.
	if out := decides(m, "accept", id, "--data-dir", m.Plane.DataDir()); out.Code == 0 || !strings.Contains(out.Stderr, "list them again") {
		t.Errorf("a second time: %+v", out)
	}
}
