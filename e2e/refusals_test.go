package e2e

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"datapunk.dev/controlplane/e2e/harness"
)

// takesNoLargeRegex has an Envoy refuse an expression that others take.
func takesNoLargeRegex(_ *harness.Sidecar, printed string) string {
	before, after, ok := strings.Cut(printed, "layers:\n")
	if !ok {
		panic("the bootstrap has no layers of runtime:\n" + printed)
	}
	indent := after[:strings.Index(after, "-")]
	return before + "layers:\n" + indent + "- {name: small, static_layer: {re2: {max_program_size: {error_level: 32}}}}\n" + after
}

// TestAProxyThatIsNewAfterARestartIsNotSentWhatOthersRefused: three of a service
// refuse an edit, the control plane restarts, and a fourth that comes then is sent
// what the others have, and calls.
func TestAProxyThatIsNewAfterARestartIsNotSentWhatOthersRefused(t *testing.T) {
	t.Parallel()
	m := harness.Start(t, harness.Options{Allowed: []string{"RE2 program size"}})
	add := func(id string) {
		m.Add(harness.Spec{Service: "nexus", ID: id, Bootstrap: takesNoLargeRegex})
	}
	for _, id := range []string{"nexus-1", "nexus-2", "nexus-3"} {
		add(id)
	}
	m.Add(harness.Spec{Service: "lake_service", ID: "lake-1"})
	m.Ready()
	m.EditSeed("    retry:\n", "    retry:\n      methods: [GET, HEAD, OPTIONS, PUT, DELETE, POST, PATCH]\n")
	quarantined := func() {
		t.Helper()
		harness.Eventually(t, "/readyz says that it is in quarantine", 20*time.Second, func() error {
			status, ready, err := m.Plane.Readyz()
			if err != nil {
				return err
			}
			if holding := strings.Join(ready.Holding, "\n"); status != http.StatusOK || !strings.Contains(holding, "proxies refused the new one") {
				return fmt.Errorf("/readyz: %d, holding %q", status, holding)
			}
			return nil
		})
	}
	quarantined()
	noError(t, m.Plane.Stop())
	noError(t, m.Plane.Start())
	noError(t, m.Plane.WaitReady(t.Context(), 20*time.Second))
	quarantined()
	add("nexus-4")
	harness.Eventually(t, "the fourth has what it needs", 20*time.Second, func() error {
		p, ok := m.Proxies()["nexus-4"]
		if !ok {
			return errors.New("it is not connected")
		}
		for typ, s := range p.Types {
			if s.LastNack != nil {
				t.Fatalf("it was sent what others refused: %s: %+v", typ, s.LastNack)
			}
		}
		return p.Synced()
	})
	harness.Eventually(t, "the fourth calls", 20*time.Second, func() error {
		if r := m.Call("nexus-4", "lake_service", "/"); r.Status != http.StatusOK {
			return fmt.Errorf("a call: %s", r)
		}
		return nil
	})
}
