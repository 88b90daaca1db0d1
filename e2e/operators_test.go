package e2e

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"

	statuspb "github.com/envoyproxy/go-control-plane/envoy/service/status/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"datapunk.dev/controlplane/admin/api"
	"datapunk.dev/controlplane/e2e/harness"
	"datapunk.dev/controlplane/internal/tool"
)

// asks runs a command against the plane of a mesh, as the user of its data directory.
func asks(m *harness.Mesh, args ...string) tool.Output {
	return m.CLI(append(args, "--admin-address", m.Plane.AdminAddress(), "--data-dir", m.Plane.DataDir())...)
}

// TestWhatOperatorsSeeOfAMesh: of real Envoys each is SYNCED and has what it was sent;
// what it is served is listed without a key; its certificate is renewed when asked.
func TestWhatOperatorsSeeOfAMesh(t *testing.T) {
	m := seedMesh(t, harness.Options{})
	out := asks(m, "status")
	if out.Code != 0 || strings.Count(out.Stdout, "SYNCED") < 4*4 || strings.Contains(out.Stdout, "REJECTED") {
		t.Fatalf("status: %d\n%s%s", out.Code, out.Stdout, out.Stderr)
	}
	t.Logf("%s", out.Stdout)
	socket := m.Sidecar("lake-1").Socket
	harness.Eventually(t, "the Envoy has what it was sent", 10*time.Second, func() error {
		if out := asks(m, "status", "lake-1", "--envoy", "unix:"+socket); out.Code != 0 {
			return fmt.Errorf("exit code %d\n%s%s", out.Code, out.Stdout, out.Stderr)
		}
		return nil
	})
	t.Logf("%s", asks(m, "status", "lake-1", "--envoy", "unix:"+socket).Stdout)

	for kind, says := range map[string]string{
		"listeners": "inbound", "routes": "outbound/stream_service", "clusters": "lake_service", "endpoints": "127.0.0.1:", "secrets": "certificate ",
	} {
		out := asks(m, "proxy-config", kind, "lake-1")
		if out.Code != 0 || !strings.Contains(out.Stdout, says) {
			t.Errorf("proxy-config %s: %d\n%s%s", kind, out.Code, out.Stdout, out.Stderr)
		}
		t.Logf("%s", out.Stdout)
	}

	serial := func() string {
		var is api.Certificates
		out := asks(m, "certs", "--service", "stream_service", "-o", "json")
		if err := json.Unmarshal([]byte(out.Stdout), &is); err != nil || len(is.Certificates) != 1 {
			t.Fatalf("certs: %v\n%s%s", err, out.Stdout, out.Stderr)
		}
		return is.Certificates[0].Serial
	}
	before := serial()
	if out := asks(m, "certs", "rotate", "--node", "stream-1"); out.Code != 0 {
		t.Fatalf("rotate: %s", out.Stderr)
	}
	harness.Eventually(t, "the certificate is another one", 5*time.Second, func() error {
		if serial() == before {
			return errors.New("it is the same")
		}
		return nil
	})
	t.Logf("%s", asks(m, "certs").Stdout)
}

// secretsOf are all secrets of a mesh that lie on this machine: the keys of the control
// plane, the tokens of its proxies, and what an operator was given. The keys of the
// proxies are nowhere but in the memory of both.
func secretsOf(t *testing.T, m *harness.Mesh, more ...string) map[string]string {
	t.Helper()
	files := append([]string{filepath.Join(m.Plane.DataDir(), "ca-key.pem"), filepath.Join(m.Plane.DataDir(), "token-key.pem")}, more...)
	for _, s := range m.Sidecars() {
		files = append(files, s.TokenFile)
	}
	secrets := map[string]string{"a private key": "PRIVATE KEY"}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		// The longest word of the file: a line of a key, or the token.
		longest := ""
		for _, word := range strings.FieldsFunc(string(data), func(r rune) bool { return unicode.IsSpace(r) || r == '"' || r == '\'' }) {
			if len(word) > len(longest) {
				longest = word
			}
		}
		if len(longest) < 40 {
			t.Fatalf("%s has no secret", file)
		}
		secrets[file] = longest
	}
	return secrets
}

// TestNoAnswerHasASecret asks for everything that the API has, of a mesh with
// certificates, and for the bundle, and looks for each secret of the mesh in it.
func TestNoAnswerHasASecret(t *testing.T) {
	t.Parallel()
	m := seedMesh(t, harness.Options{})
	operator := filepath.Join(t.TempDir(), "ada.token")
	if out := m.CLI("admin-token", "--data-dir", m.Plane.DataDir(), "--name", "ada", "--role", "operate", "--out", operator); out.Code != 0 {
		t.Fatal(out.Stderr)
	}
	if out := m.CLI("certs", "rotate", "--node", "lake-1", "--admin-address", m.Plane.AdminAddress(), "--token-file", operator); out.Code != 0 {
		t.Fatal(out.Stderr)
	}
	secrets := secretsOf(t, m, operator)
	search := func(name, text string) {
		t.Helper()
		for what, secret := range secrets {
			if strings.Contains(text, secret) {
				t.Errorf("%s has the secret of %s", name, what)
			}
		}
	}
	var document struct {
		Paths map[string]map[string]json.RawMessage `json:"paths"`
	}
	if err := json.Unmarshal(api.Document, &document); err != nil {
		t.Fatal(err)
	}
	asked := 0
	for path, methods := range document.Paths {
		if _, ok := methods["get"]; !ok || path == "/events/stream" {
			continue
		}
		for _, name := range []string{"lake-1", revisionOf(t, m)} {
			status, body, err := m.Plane.Get(api.Prefix + regexp.MustCompile(`\{\w+\}`).ReplaceAllString(path, name))
			if err != nil || status == 200 && body == "" {
				t.Errorf("%s: %v", path, err)
			}
			if status == 200 {
				asked++
			}
			search(path, body)
		}
	}
	if asked < 2*10 {
		t.Errorf("%d answers", asked)
	}
	for _, path := range []string{"/metrics", "/sd/prometheus", "/readyz"} {
		_, body, err := m.Plane.Get(path)
		if err != nil {
			t.Fatal(err)
		}
		search(path, body)
	}
	bundle := filepath.Join(t.TempDir(), "bundle.tar.gz")
	if out := asks(m, "collect", "-o", bundle); out.Code != 0 {
		t.Fatal(out.Stderr)
	}
	files := 0
	unpack(t, bundle, func(name, text string) {
		files++
		search(name, text)
	})
	if files < 15 {
		t.Errorf("the bundle has %d files", files)
	}
}

func revisionOf(t *testing.T, m *harness.Mesh) string {
	t.Helper()
	var is api.Revisions
	if err := json.Unmarshal([]byte(asks(m, "history", "list", "-o", "json").Stdout), &is); err != nil || len(is.Revisions) == 0 {
		t.Fatalf("history: %v", err)
	}
	return is.Revisions[0].Revision
}

func unpack(t *testing.T, file string, f func(name, text string)) {
	t.Helper()
	in, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close() //nolint:errcheck // read only
	zip, err := gzip.NewReader(in)
	if err != nil {
		t.Fatal(err)
	}
	for archive := tar.NewReader(zip); ; {
		head, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(archive)
		if err != nil {
			t.Fatal(err)
		}
		f(head.Name, string(text))
	}
}

// TestTheFieldsOwnToolsReadTheStatus: CSDS answers an operator, and neither a proxy nor
// who shows nothing.
func TestTheFieldsOwnToolsReadTheStatus(t *testing.T) {
	t.Parallel()
	m := seedMesh(t, harness.Options{})
	ca, err := os.ReadFile(filepath.Join(m.Plane.DataDir(), "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	conn, err := grpc.NewClient(m.Plane.XDSAddress(), grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13})))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close() //nolint:errcheck // the test is over
	client := statuspb.NewClientStatusDiscoveryServiceClient(conn)
	bearer := func(raw string) context.Context {
		return metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+strings.TrimSpace(raw))
	}
	proxy := filepath.Join(t.TempDir(), "proxy.jwt")
	if out := m.CLI("token", "--jwt", "--data-dir", m.Plane.DataDir(), "--service", "nexus", "--node", "nexus-1", "--out", proxy); out.Code != 0 {
		t.Fatal(out.Stderr)
	}
	raw, err := os.ReadFile(proxy)
	if err != nil {
		t.Fatal(err)
	}
	for _, ctx := range []context.Context{t.Context(), bearer(string(raw)), bearer("e30.e30.e30")} {
		if out, err := client.FetchClientStatus(ctx, &statuspb.ClientStatusRequest{}); status.Code(err) != codes.Unauthenticated {
			t.Errorf("somebody else is answered: %v %v", err, out)
		}
		stream, err := client.StreamClientStatus(ctx)
		if err == nil {
			_, err = stream.Recv()
		}
		if status.Code(err) != codes.Unauthenticated {
			t.Errorf("somebody else has a stream: %v", err)
		}
	}
	reader := m.CLI("admin-token", "--data-dir", m.Plane.DataDir(), "--name", "bob").Stdout
	out, err := client.FetchClientStatus(bearer(reader), &statuspb.ClientStatusRequest{})
	if err != nil || len(out.GetConfig()) != 4 {
		t.Fatalf("%v: %d proxies", err, len(out.GetConfig()))
	}
	for _, config := range out.GetConfig() {
		kinds := make(map[string]int)
		for _, r := range config.GetGenericXdsConfigs() {
			kinds[r.GetTypeUrl()]++
			if r.GetConfigStatus() != statuspb.ConfigStatus_SYNCED {
				t.Errorf("%s has %s %s as %s", config.GetNode().GetId(), r.GetTypeUrl(), r.GetName(), r.GetConfigStatus())
			}
			if strings.Contains(string(r.GetXdsConfig().GetValue()), "PRIVATE KEY") {
				t.Errorf("%s %s has a key", config.GetNode().GetId(), r.GetName())
			}
		}
		if len(kinds) != 7 {
			t.Errorf("%s has %v", config.GetNode().GetId(), kinds)
		}
	}
	stream, err := client.StreamClientStatus(bearer(reader))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := stream.Send(&statuspb.ClientStatusRequest{ExcludeResourceContents: true}); err != nil {
			t.Fatal(err)
		}
		if one, err := stream.Recv(); err != nil || len(one.GetConfig()) != 4 {
			t.Errorf("%v: %v", err, one)
		}
	}
}

// TestAnEditIsPlannedWithTheFleet: what the control plane plans is what its Envoys then
// have, and who has not is shown with the line.
func TestAnEditIsPlannedWithTheFleet(t *testing.T) {
	t.Parallel()
	m := seedMesh(t, harness.Options{})
	edit := filepath.Join(t.TempDir(), "edit.yaml")
	text, err := os.ReadFile(m.MeshFile(0))
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.Replace(string(text), "max_requests: 1024", "max_requests: 1023", 1)
	if changed == string(text) {
		t.Fatal("the file has no max_requests: 1024")
	}
	if err := os.WriteFile(edit, []byte(changed), 0o600); err != nil {
		t.Fatal(err)
	}
	out := asks(m, "plan", "-f", edit, "--detailed-exitcode")
	if out.Code != 2 || !strings.Contains(out.Stdout, `max_requests: "1024" → "1023"`) || !strings.Contains(out.Stdout, "edit.yaml:") {
		t.Errorf("exit code %d\n%s%s", out.Code, out.Stdout, out.Stderr)
	}
	t.Logf("%s", out.Stdout)
	m.Edit(changed)
	harness.Eventually(t, "the Envoys have it", 10*time.Second, func() error {
		for _, id := range []string{"nexus-1", "lake-1"} {
			if out := asks(m, "status", id, "--envoy", "unix:"+m.Sidecar(id).Socket); out.Code != 0 {
				return errors.New(out.Stdout)
			}
		}
		if out := asks(m, "plan", "-f", edit, "--detailed-exitcode"); out.Code != 0 {
			return errors.New(out.Stdout)
		}
		return nil
	})
}

// TestARefusalIsShownWithItsReason: an Envoy that cannot open a port refuses its listener,
// and status says so, with its words; its Envoy is shown to lack it.
func TestARefusalIsShownWithItsReason(t *testing.T) {
	t.Parallel()
	m := harness.Start(t, harness.Options{Allowed: []string{"cannot bind .*Address already in use"}})
	port := harness.Port(t)
	taken, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close() //nolint:errcheck // the test is over
	m.Add(harness.Spec{Service: "nexus", ID: "busy-1", Flags: []string{"--outbound-port", strconv.Itoa(port)}})
	harness.Eventually(t, "it is shown as refused, with the reason", 20*time.Second, func() error {
		out := asks(m, "status", "--unhealthy")
		if !regexp.MustCompile(`(?s)busy-1 .*REJECTED.*busy-1 rejects listener outbound at .*cannot bind .*for what is on its own machine: address_in_use\n    from .*mesh\.yaml:\d+:\d+`).MatchString(out.Stdout) {
			return errors.New(out.Stdout)
		}
		return nil
	})
	out := asks(m, "status", "busy-1", "--envoy", "unix:"+m.Sidecar("busy-1").Socket)
	if out.Code != 2 || !strings.Contains(out.Stdout, "listener outbound: it ") {
		t.Errorf("exit code %d\n%s", out.Code, out.Stdout)
	}
	t.Logf("%s", out.Stdout)
	if out := asks(m, "check"); out.Code != 2 || !regexp.MustCompile(`FAILED +proxies +1 of 1 refuse something: busy-1`).MatchString(out.Stdout) {
		t.Errorf("check: exit code %d\n%s", out.Code, out.Stdout)
	}
	if out := asks(m, "events"); !strings.Contains(out.Stdout, "proxy_rejected   busy-1 of nexus") {
		t.Errorf("events:\n%s", out.Stdout)
	}
}

// TestTheControlPlaneChecksItsConsul: its leader, its clock, and the rights of the token.
func TestTheControlPlaneChecksItsConsul(t *testing.T) {
	t.Parallel()
	m := harness.Start(t, harness.Options{Consul: true})
	m.Add(harness.Spec{Service: "nexus", ID: "nexus-1"})
	m.Ready()
	out := asks(m, "check")
	for _, want := range []string{"catalog", "Consul", "clock", "Consul's rights", "proxies"} {
		if out.Code != 0 || !regexp.MustCompile(`(?m)^OK +`+want+`  `).MatchString(out.Stdout) {
			t.Errorf("exit code %d, want %s to be OK in\n%s", out.Code, want, out.Stdout)
		}
	}
	if !strings.Contains(out.Stdout, "has the leader") {
		t.Errorf("no leader is named in\n%s", out.Stdout)
	}
}
