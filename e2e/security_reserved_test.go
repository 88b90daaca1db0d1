package e2e

import (
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"google.golang.org/grpc/codes"

	"datapunk.dev/controlplane/e2e/harness"
	"datapunk.dev/controlplane/e2e/run"
)

func TestNoServiceCanGetTheControlPlanesIdentity(t *testing.T) {
	m := harness.Start(t, harness.Options{Overlay: quietMesh})
	nexus := m.Add(harness.Spec{Service: "nexus", ID: "nexus-1"})
	m.Ready()
	token := tokenOf(t, nexus.TokenFile)

	t.Run("controlplane token refuses it", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "token.yaml")
		out := m.CLI("token", "--data-dir", filepath.Dir(m.Plane.CAFile()), "--service", "control-plane", "--node", "n", "--ttl", "1h", "--out", file)
		if out.Code != 1 || !strings.Contains(out.Stderr, "reserved") {
			t.Errorf("exit code %d: %s", out.Code, out.Stderr)
		}
		if _, err := os.Stat(file); err == nil {
			t.Error("it wrote a token")
		}
	})

	t.Run("controlplane bootstrap refuses it", func(t *testing.T) {
		out := m.CLI("bootstrap", "--service", "control-plane", "--node-id", "n", "--app-port", "1", "--mesh-port", "2",
			"--xds-address", m.Plane.XDSAddress(), "--ca-file", m.Plane.CAFile(), "--token-file", nexus.TokenFile)
		if out.Code == 0 || out.Stdout != "" {
			t.Errorf("exit code %d: %s", out.Code, out.Stdout)
		}
	})

	t.Run("the file refuses it", func(t *testing.T) {
		for name, text := range map[string]string{
			"services":        "mesh: {services: {control-plane: {protocol: http}}}\n",
			"custom":          "mesh: {circuit_breakers: {custom: {control-plane: {max_requests: 1}}}}\n",
			"upstreams":       "mesh: {services: {nexus: {upstreams: [control-plane]}}}\n",
			"consul_service":  "mesh: {services: {control-plane: {consul_service: nexus}}}\n",
			"policy's source": "mesh: {security: {authorization: {policies: [{name: p, action: ALLOW, sources: [control-plane]}]}}}\n",
		} {
			file := filepath.Join(t.TempDir(), "mesh.yaml")
			noError(t, os.WriteFile(file, []byte(text), 0o600))
			out := m.CLI("validate", "-f", m.MeshFile(0), "-f", file)
			if out.Code != 1 || !strings.Contains(out.Stderr, file+":1:") || !strings.Contains(out.Stderr, "control-plane") {
				t.Errorf("%s: exit code %d: %s", name, out.Code, out.Stderr)
			}
		}
	})

	t.Run("the catalog refuses it", func(t *testing.T) {
		noError(t, m.Registry.Register(run.Instance{Service: "control-plane", ID: "cp-1", Port: 1, MeshPort: 2}))
		noError(t, m.Registry.Register(run.Instance{Service: "after", ID: "after-1", Port: 3, MeshPort: 4}))
		harness.Eventually(t, "the catalog was taken", 10*time.Second, func() error {
			if m.Dump("nexus-1").Get("cluster", "after") == nil {
				return fmt.Errorf("nexus-1 has no cluster after")
			}
			return nil
		})
		dump := m.Dump("nexus-1")
		if r := dump.Get("cluster", "control-plane"); r != nil {
			t.Errorf("nexus-1 has the cluster %s", r.Body)
		}
		if dump.Get("scoped_route", "after") == nil {
			t.Error("nexus-1 has no route to after: what it lacks says nothing")
		}
		for _, r := range dump.Resources {
			if (r.Type == "route" || r.Type == "scoped_route") && strings.Contains(string(r.Body), "control-plane") {
				t.Errorf("nexus-1 has a route to it: %s", r.Body)
			}
		}
		if !strings.Contains(m.Plane.Log.String(), `service \"control-plane\" is left out`) {
			t.Error("the log does not say so")
		}
	})

	t.Run("its name in a node is refused", func(t *testing.T) {
		for _, kind := range kinds {
			got, err := dialDiscovery(t, m).demand(t, kind, nodeOf("control-plane", "nexus-1"), []string{"default"}, token)
			refused(t, got, err, codes.PermissionDenied)
		}
	})

	t.Run("a token for it that the right key signed is refused", func(t *testing.T) {
		for _, subject := range []string{meshID("control-plane"), meshID("./control-plane"), meshID("control-plane/"), meshID("nexus/../control-plane"), meshID("")} {
			forged := forge(t, m, func(_ map[string]any, c jwt.MapClaims) { c["sub"] = subject })
			for _, kind := range kinds {
				got, err := dialDiscovery(t, m).demand(t, kind, nodeOf("control-plane", "nexus-1"), []string{"default"}, forged)
				refused(t, got, err, codes.Unauthenticated)
			}
		}
	})

	t.Run("its secret is refused", func(t *testing.T) {
		for _, kind := range kinds {
			got, err := dialDiscovery(t, m).demand(t, kind, nodeOf("nexus", "nexus-1"), []string{meshID("control-plane"), "callers/control-plane", "default"}, token)
			noError(t, err)
			if want := []string{"default is " + meshID("nexus")}; !slices.Equal(ids(t, got), want) || len(got) != 2 {
				t.Errorf("%s: %v of %d secrets, want %v and ROOTCA", kind, ids(t, got), len(got), want)
			}
		}
	})
}

func TestEnvoyTakesNoServiceOfTheMeshForItsControlPlane(t *testing.T) {
	m := harness.Start(t, harness.Options{Overlay: quietMesh})
	ours := meshAuthority(t, m)
	config := &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"},
		Certificates: []tls.Certificate{*ours.issue(t, []string{meshID("stream_service")})},
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	noError(t, err)
	t.Cleanup(func() { _ = listener.Close() })
	// Handshakes are all that there is to see: a service that lies in wait for
	// the tokens of others.
	shook := make(chan error, 100)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			server := tls.Server(conn, config)
			_ = server.SetDeadline(time.Now().Add(5 * time.Second))
			_, err = server.Read(make([]byte, 1))
			shook <- err
			_ = conn.Close()
		}
	}()

	nexus := m.Prepare(harness.Spec{Service: "nexus", ID: "nexus-1", Bootstrap: func(_ *harness.Sidecar, printed string) string {
		_, port, _ := net.SplitHostPort(m.Plane.XDSAddress())
		return strings.Replace(printed, "port_value: "+port, fmt.Sprintf("port_value: %d", listener.Addr().(*net.TCPAddr).Port), 1)
	}})
	m.Launch(nexus)
	for range 2 {
		select {
		case err := <-shook:
			if err == nil {
				t.Error("the Envoy said something to a service that called itself its control plane")
			}
		case <-time.After(20 * time.Second):
			t.Fatal("the Envoy did not call")
		}
	}
	harness.Eventually(t, "the Envoy counts it", 5*time.Second, func() error {
		if n := m.Stats("nexus-1")["cluster.xds.ssl.fail_verify_san"]; n < 2 {
			return fmt.Errorf("cluster.xds.ssl.fail_verify_san is %d", n)
		}
		return nil
	})
	if nexus.Envoy.Ready() == nil {
		t.Error("it is ready")
	}
}
