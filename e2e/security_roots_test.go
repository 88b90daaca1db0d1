package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"datapunk.dev/controlplane/e2e/harness"
	"datapunk.dev/controlplane/e2e/traffic"
)

// shakers make a call each 20 ms over a connection of its own, which is a handshake
// between two sidecars each.
type shakers struct {
	mu       sync.Mutex
	calls    int
	failures []string
	stop     chan struct{}
	running  sync.WaitGroup
}

func shake(t *testing.T, addresses ...string) *shakers {
	t.Helper()
	s := &shakers{stop: make(chan struct{})}
	for _, address := range addresses {
		s.running.Go(func() {
			for every := time.NewTicker(20 * time.Millisecond); ; {
				select {
				case <-s.stop:
					every.Stop()
					return
				case <-every.C:
				}
				const text = "hello"
				heard, err := traffic.Echo(t.Context(), address, text, len(banner))
				s.mu.Lock()
				s.calls++
				if err != nil || heard != text {
					s.failures = append(s.failures, fmt.Sprintf("%s %s: heard %q, %v", time.Now().Format("15:04:05.000"), address, heard, err))
				}
				s.mu.Unlock()
			}
		})
	}
	return s
}

// end stops the calls, none of which may have failed.
func (s *shakers) end(t *testing.T, when string) {
	t.Helper()
	close(s.stop)
	s.running.Wait()
	t.Logf("measured: %s: %d handshakes, %d failed", when, s.calls, len(s.failures))
	if len(s.failures) > 0 || s.calls < 100 {
		t.Errorf("%s: %d of %d calls failed: %s", when, len(s.failures), s.calls, strings.Join(s.failures[:min(len(s.failures), 5)], "; "))
	}
}

func TestTheRootIsReplacedUnderLoad(t *testing.T) {
	t.Parallel()
	ports := []int{harness.Port(t), harness.Port(t)}
	m := harness.Start(t, harness.Options{Overlay: quietMesh + fmt.Sprintf(`  security: {mtls: {cert_rotation: 12s, cert_ttl: 24s}}
  services:
    bank: {protocol: tcp}
    nexus: {upstreams: [{service: bank, local_bind_port: %d}]}
    reports: {upstreams: [{service: bank, local_bind_port: %d}]}
`, ports[0], ports[1])})
	for _, id := range []string{"bank-1", "bank-2"} {
		m.Add(harness.Spec{Service: "bank", ID: id, SpeaksTCP: true, Banner: banner})
	}
	m.Add(harness.Spec{Service: "nexus", ID: "nexus-1", Scoped: true})
	m.Add(harness.Spec{Service: "reports", ID: "reports-1", Scoped: true})
	m.Ready()
	addresses := []string{"127.0.0.1:" + strconv.Itoa(ports[0]), "127.0.0.1:" + strconv.Itoa(ports[1])}
	roots := func(words ...string) (string, error) {
		out := m.CLI(append([]string{"roots", "--admin-address", m.Plane.AdminAddress(), "--data-dir", m.Plane.DataDir()}, words...)...)
		if out.Code != 0 {
			return "", fmt.Errorf("roots %v: %s", words, out.Stderr)
		}
		return out.Stdout, nil
	}
	soon := func(what string, limit time.Duration, words ...string) {
		t.Helper()
		harness.Eventually(t, what, limit, func() error { _, err := roots(words...); return err })
	}

	old := meshAuthority(t, m)
	first := shake(t, addresses...)
	shown, err := roots("prepare")
	noError(t, err)
	if !strings.Contains(shown, "phase   prepared") {
		t.Errorf("it is shown as\n%s", shown)
	}
	soon("all proxies trust the next root, and it is activated", 10*time.Second, "activate")
	harness.Eventually(t, "all proxies have a certificate of the next root", 15*time.Second, func() error {
		is := m.Metrics()
		if n := is["controlplane_svids_of_other_root"]; n != 0 || is[`controlplane_root_phase{phase="activated"}`] != 1 {
			return fmt.Errorf("%v have not", n)
		}
		return nil
	})
	harness.Eventually(t, "the certificates of the first root have ended; only the bootstraps are in the way", 40*time.Second, func() error {
		time.Sleep(500 * time.Millisecond) // each that is refused is in the log
		_, err := roots("retire")
		if err == nil {
			return errors.New("it was retired")
		}
		if !strings.Contains(err.Error(), "4 Envoys accept no control plane of the next root") {
			return err
		}
		return nil
	})
	first.end(t, "prepared and activated")

	bundle, err := roots("bundle")
	noError(t, err)
	file := filepath.Join(t.TempDir(), "roots.pem")
	noError(t, os.WriteFile(file, []byte(bundle), 0o600))
	for _, s := range m.Sidecars() {
		noError(t, m.Rebootstrap(t.Context(), s, file))
	}
	m.Ready()

	visitor := old.caller(old.issue(t, []string{meshID("nexus")}))
	visitor.VerifyConnection = nil // it is not the server that is looked at
	visit := func() string {
		heard, _ := hearTLS(t.Context(), m.Sidecar("bank-1").Inbound(), visitor, time.Second)
		return heard
	}
	if heard := visit(); heard != banner {
		t.Errorf("a caller with a certificate of the first root heard %q, while that is trusted", heard)
	}

	second := shake(t, addresses...)
	soon("the first root is retired", 10*time.Second, "retire")
	second.goOn(t, 3*time.Second, "retired")
	shown, err = roots("show")
	noError(t, err)
	if !strings.Contains(shown, "phase   steady") || !strings.Contains(shown, "all connected proxies trust them") {
		t.Errorf("in the end it is shown as\n%s", shown)
	}
	if heard := visit(); heard != "" {
		t.Errorf("a caller with a certificate of the retired root heard %q", heard)
	}

	// Under the new root alone Envoys find their control plane again.
	third := shake(t, addresses...)
	noError(t, m.Plane.Stop())
	noError(t, m.Plane.Start())
	m.Ready()
	third.goOn(t, 2*time.Second, "after a restart of the control plane")
}

// goOn goes on for a while, and ends.
func (s *shakers) goOn(t *testing.T, more time.Duration, when string) {
	t.Helper()
	time.Sleep(more)
	s.end(t, when)
}
