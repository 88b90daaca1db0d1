package e2e

import (
	"context"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"datapunk.dev/controlplane/e2e/harness"
)

// serveRefuses runs `controlplane serve`, which must end by itself with the
// exit code and one line on stderr that has the text.
func serveRefuses(t *testing.T, m *harness.Mesh, code int, text string, args ...string) {
	t.Helper()
	admin := "127.0.0.1:" + strconv.Itoa(harness.Port(t))
	out := m.CLI(append([]string{"serve", "--catalog", m.Catalog, "--admin-address", admin}, args...)...)
	if out.Code != code || out.Stdout != "" || strings.Count(out.Stderr, "\n") != 1 || !strings.Contains(out.Stderr, text) {
		t.Errorf("serve %q: exit code %d, stdout %q, stderr %q; want %d and one line with %q", args, out.Code, out.Stdout, out.Stderr, code, text)
	}
}

func TestPlaintextXDSIsRefusedWithMTLSAndOffLoopback(t *testing.T) {
	m := harness.New(t, harness.Options{Overlay: harness.MTLSOff})
	files := []string{"-f", m.MeshFile(0), "-f", m.MeshFile(1)}
	port := strconv.Itoa(harness.Port(t))
	for _, address := range []string{"0.0.0.0", "", "[::]", "192.0.2.1", "localhost", "127.0.0.1.example.org", "[::ffff:192.0.2.1]"} {
		t.Run("on "+address, func(t *testing.T) {
			serveRefuses(t, m, 2, "--xds-plaintext on "+address, append(files, "--xds-plaintext", "--xds-address", address+":"+port)...)
		})
	}
	for _, address := range []string{"127.0.0.1:" + port, "unix:" + filepath.Join(m.Dir, "xds.sock")} {
		t.Run("with mTLS, on "+address, func(t *testing.T) {
			serveRefuses(t, m, 1, "security.mtls.enabled is true", "-f", m.MeshFile(0), "--xds-plaintext", "--xds-address", address)
		})
	}
	if _, err := os.Stat(filepath.Join(m.Dir, "xds.sock")); err == nil {
		t.Error("the socket was opened first")
	}
	if conn, err := net.Dial("tcp", "127.0.0.1:"+port); err == nil {
		_ = conn.Close()
		t.Error("something listens")
	}
}

func TestEditThatTurnsMTLSOnWhilePlaintextIsServedIsRefused(t *testing.T) {
	m := harness.Start(t, harness.Options{Overlay: harness.MTLSOff, Plaintext: true})
	m.Add(harness.Spec{Service: "nexus", ID: "nexus-1"})
	m.Ready()
	before, versions := pushes(t, m), m.Dump("nexus-1").Versions()
	m.Edit("mesh: {name: datapunk-mesh}\n") // the first file's mtls.enabled: true stands again

	harness.Eventually(t, "the edit is refused", 10*time.Second, func() error {
		_, r, err := m.Plane.Readyz()
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(r.Holding, func(h string) bool { return strings.Contains(h, "security.mtls.enabled is true") }) {
			return fmt.Errorf("it holds %q", r.Holding)
		}
		return nil
	})
	if got := pushed(t, m, before); len(got) > 0 {
		t.Errorf("it was sent all the same: %v", got)
	}
	if m.Metrics()["controlplane_mesh_rejected"] != 1 {
		t.Error("controlplane_mesh_rejected is not 1")
	}
	if now := m.Dump("nexus-1").Versions(); !maps.Equal(versions, now) {
		t.Errorf("before\n%v\nafter\n%v", versions, now)
	}
}

func TestPlaintextXDSNeverHandsOutAPrivateKey(t *testing.T) {
	dir := harness.Dir(t)
	// A data directory with all keys lies at hand.
	secure := harness.Start(t, harness.Options{Overlay: quietMesh, DataDir: dir})
	noError(t, secure.Plane.Stop())
	m := harness.Start(t, harness.Options{Overlay: harness.MTLSOff, Plaintext: true, DataDir: dir})
	names := []string{"default", meshID("nexus"), "spiffe://datapunk-mesh/nexus", meshID("control-plane"), "callers/nexus", "callers/lake_service", "*"}

	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			// ADS answers in order: clusters that come say that the secrets were
			// passed over. A stream for secrets alone stays silent.
			ads, wait := strings.HasSuffix(kind, "ADS"), time.Second
			if ads {
				wait = 10 * time.Second
			}
			ctx, cancel := context.WithTimeout(t.Context(), wait)
			defer cancel()
			s, err := dialDiscoveryInPlaintext(t, m).open(ctx, kind, nodeOf("nexus", "nexus-1"))
			noError(t, err)
			noError(t, s.send(secretType, names...))
			if ads {
				noError(t, s.send(clusterType))
			}
			for {
				typ, resources, err := s.recv()
				if err != nil {
					if ads || status.Code(err) != codes.DeadlineExceeded {
						t.Errorf("the stream ended: %v", err)
					}
					return
				}
				if typ == clusterType {
					return
				}
				for name, res := range resources {
					secret := new(tlsv3.Secret)
					noError(t, res.UnmarshalTo(secret))
					if secret.GetTlsCertificate() != nil || strings.Contains(string(res.GetValue()), "PRIVATE KEY") {
						t.Errorf("got a private key as %s", name)
					}
				}
			}
		})
	}
	if m.Metrics()["controlplane_xds_unauthorized_secrets_total"] == 0 {
		t.Error("no refusal was counted")
	}
}
