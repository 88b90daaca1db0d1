//go:build component

package bootstrap

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"datapunk.dev/controlplane/internal/tool"
	"datapunk.dev/controlplane/sds/token"
)

// socketDir is a directory with a path that is short enough for sockets.
func socketDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "boot")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// settle gives the options paths that exist.
func settle(t *testing.T, dir string, o *Options) {
	t.Helper()
	o.AdminSocket = filepath.Join(dir, "admin.sock")
	if !o.Plaintext {
		o.TokenFile = filepath.Join(dir, "token.yaml")
		if err := token.WriteSecretFile(o.TokenFile, "a.b.c"); err != nil {
			t.Fatal(err)
		}
	}
}

func TestEnvoyAcceptsEachBootstrap(t *testing.T) {
	for name, o := range examples(t) {
		t.Run(name, func(t *testing.T) {
			settle(t, socketDir(t), &o)
			if err := tool.EnvoyAccepts(t.Context(), render(t, o)); err != nil {
				t.Error(err)
			}
		})
	}
}

// startEnvoy runs Envoy until the test ends and returns its admin interface.
// When it has ended, its log must be empty, but for what is expected.
func startEnvoy(t *testing.T, o Options) *http.Client {
	t.Helper()
	dir := socketDir(t)
	settle(t, dir, &o)
	return start(t, dir, o)
}

// runtimeTimedOut is what an Envoy logs, once, that no control plane has told of
// its runtime layer.
const runtimeTimedOut = "initial fetch timed out for type.googleapis.com/envoy.service.runtime.v3.Runtime"

// healthStreamClosed is part of what an Envoy logs as often as it has tried in vain to
// ask which health checks to do: at first once a second, then every 30 s.
const healthStreamClosed = "health_discovery_service.cc"

// start runs Envoy with exactly these options. Lines of the log that have one
// of the given texts are expected.
func start(t *testing.T, dir string, o Options, expected ...string) *http.Client {
	t.Helper()
	return startFrom(t, dir, render(t, o), o.AdminSocket, expected...)
}

func startFrom(t *testing.T, dir string, bootstrap []byte, adminSocket string, expected ...string) *http.Client {
	t.Helper()
	path := filepath.Join(dir, "bootstrap.yaml")
	if err := os.WriteFile(path, bootstrap, 0o600); err != nil {
		t.Fatal(err)
	}
	binary, err := tool.Find("envoy")
	if err != nil {
		t.Fatal(err)
	}
	envoy, err := tool.Start(tool.Command{Name: "envoy", Path: binary, Args: []string{"-c", path, "-l", "warning", "--disable-hot-restart", "--concurrency", "1"}})
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", adminSocket)
		},
	}}
	t.Cleanup(func() {
		if err := envoy.Stop(); err != nil {
			t.Error(err)
		}
		for _, line := range envoy.Log.Lines() {
			known := func(text string) bool { return strings.Contains(line, text) }
			if !slices.ContainsFunc(append(expected, "caught ENVOY_SIGTERM", runtimeTimedOut, healthStreamClosed), known) {
				t.Errorf("Envoy logged: %s", line)
			}
		}
	})
	err = envoy.Until(t.Context(), "Envoy answers", 20*time.Second, func() error {
		response, err := client.Get("http://admin/ready")
		if err != nil {
			return err
		}
		return response.Body.Close()
	})
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func get(t *testing.T, admin *http.Client, path string) (int, string) {
	t.Helper()
	response, err := admin.Get("http://admin" + path)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close() //nolint:errcheck // read only
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

// All that it says is that it goes on without a runtime layer, and without health checks.
func TestEnvoyWaitsInSilenceWhereThereIsNoControlPlane(t *testing.T) {
	for name, addresses := range map[string][]string{
		"nobody listens":            {"127.0.0.1:1"},
		"no such socket":            {"unix:/nonexistent/xds.sock"},
		"a name that has no answer": {"control.invalid:18000"},
	} {
		t.Run(name, func(t *testing.T) {
			admin := startEnvoy(t, sidecar(t, func(o *Options) { o.XDSAddresses = addresses }))
			waitFor(t, admin, "runtime.init_fetch_timeout: 1") // it has asked, and not been answered
			if _, body := get(t, admin, "/ready"); !strings.Contains(body, "INITIALIZING") {
				t.Errorf("it is %q without a control plane", strings.TrimSpace(body))
			}
			if _, body := get(t, admin, "/stats?filter=deprecated_feature_use"); strings.TrimSpace(body) != "runtime.deprecated_feature_use: 0" {
				t.Errorf("deprecated features: %s", body)
			}
		})
	}
}

// waitFor waits until a statistic has a value.
func waitFor(t *testing.T, admin *http.Client, stat string) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		_, stats := get(t, admin, "/stats?filter="+strings.SplitN(stat, ":", 2)[0])
		if strings.Contains(stats, stat) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("want %s:\n%s", stat, stats)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func TestTheAdminSocketShowsAndDoesNotAct(t *testing.T) {
	o := sidecar(t, func(o *Options) { o.XDSAddresses = []string{"127.0.0.1:1"} })
	admin := startEnvoy(t, o)
	for _, path := range []string{"/stats", "/stats/prometheus", "/clusters", "/config_dump", "/listeners", "/certs", "/server_info"} {
		if status, _ := get(t, admin, path); status != http.StatusOK {
			t.Errorf("%s: %d", path, status)
		}
	}
	for _, path := range []string{"/quitquitquit", "/drain_listeners", "/logging?level=debug", "/runtime_modify", "/reset_counters", "/healthcheck/fail", "/memory"} {
		response, err := admin.Post("http://admin"+path, "", nil)
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
		if response.StatusCode != http.StatusForbidden {
			t.Errorf("POST %s: %d, want 403", path, response.StatusCode)
		}
	}
	if _, dump := get(t, admin, "/config_dump"); strings.Contains(dump, "a.b.c") {
		t.Error("the token is in the dump")
	}
}

// A sidecar of ours can have its Envoy drain, and nothing else be done by it.
func TestAManagedEnvoyCanBeToldToDrain(t *testing.T) {
	o := sidecar(t, func(o *Options) { o.XDSAddresses, o.Managed = []string{"127.0.0.1:1"}, true })
	admin := startEnvoy(t, o)
	for path, want := range map[string]int{
		"/healthcheck/fail": 200, "/drain_listeners?graceful&skip_exit&inboundonly": 200,
		"/quitquitquit": 403, "/logging?level=debug": 403, "/runtime_modify": 403, "/healthcheck/ok": 403,
	} {
		response, err := admin.Post("http://admin"+path, "", nil)
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
		if response.StatusCode != want {
			t.Errorf("POST %s: %d, want %d", path, response.StatusCode, want)
		}
	}
}

// What Envoy says of itself must be what was asked for, with its types.
func TestEnvoyIsWhoItWasToldToBe(t *testing.T) {
	o := examples(t)["words-that-look-like-values"]
	o.XDSAddresses = []string{"127.0.0.1:1"}
	_, body := get(t, startEnvoy(t, o), "/server_info")
	var info struct {
		Node struct {
			ID       string         `json:"id"`
			Cluster  string         `json:"cluster"`
			Metadata map[string]any `json:"metadata"`
		} `json:"node"`
	}
	if err := json.Unmarshal([]byte(body), &info); err != nil {
		t.Fatal(err)
	}
	n := info.Node
	if n.ID != "on" || n.Cluster != "1e3" || n.Metadata["version"] != "y" || n.Metadata["zone"] != "nan" || n.Metadata["mesh_port"] != 15443.0 {
		t.Errorf("node %+v", n)
	}
}
