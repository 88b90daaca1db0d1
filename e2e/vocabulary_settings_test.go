package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"datapunk.dev/controlplane/e2e/harness"
	"datapunk.dev/controlplane/e2e/run"
	"datapunk.dev/controlplane/internal/tool"
)

// TestEnvoyIsServedInPlaintextOverAUnixSocket.
func TestEnvoyIsServedInPlaintextOverAUnixSocket(t *testing.T) {
	socket := filepath.Join(harness.Dir(t), "xds.sock")
	m := harness.Start(t, harness.Options{XDSAddress: "unix:" + socket, Plaintext: true, Overlay: harness.MTLSOff})
	lake := m.Add(harness.Spec{Service: "lake_service", ID: "lake-1"})
	m.Ready()
	if r := m.Call("lake-1", "lake_service", "/"); r.Status != 200 {
		t.Errorf("%s", r)
	}
	if lake.TokenFile != "" || m.Stats("lake-1")["cluster.xds.ssl.handshake"] != 0 {
		t.Error("the stream has a token or TLS")
	}
	info, err := os.Stat(socket)
	noError(t, err)
	if mode := info.Mode().Perm(); mode != 0o600 {
		t.Errorf("the socket's mode is %o: others may connect", mode)
	}
}

// TestSettingsOfTheProcessComeFromFlagsThenVariablesThenAFile.
func TestSettingsOfTheProcessComeFromFlagsThenVariablesThenAFile(t *testing.T) {
	dir := harness.Dir(t)
	write := func(name, text string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		noError(t, run.WriteFile(path, text))
		return path
	}
	off := "security: {mtls: {enabled: false}}"
	one := write("one.yaml", "mesh: {name: one, version: '1', "+off+", environments: {a: {version: a}, b: {version: b}}}\n")
	two := write("two.yaml", "mesh: {name: two}\n")
	catalog := "file:" + write("catalog.yaml", "services: {}\n")

	// serve runs `controlplane serve` until the subtest ends, and returns what
	// it serves: the name and the version of the mesh.
	serve := func(t *testing.T, admin string, env []string, args ...string) (name, version string, log *tool.Log) {
		t.Helper()
		p, err := tool.Start(tool.Command{
			Name: "serve", Path: harness.Binary(), Args: append([]string{"serve"}, args...), Env: append([]string{"ENV="}, env...), Dir: t.TempDir(),
		})
		noError(t, err)
		t.Cleanup(func() { noError(t, p.Stop()) })
		harness.Eventually(t, "it answers at "+admin, 10*time.Second, func() error {
			if !p.Running() {
				t.Fatalf("it ended: %s", p.Log)
			}
			resp, err := http.Get("http://" + admin + "/metrics")
			if err != nil {
				return err
			}
			defer func() { _ = resp.Body.Close() }()
			text, err := io.ReadAll(resp.Body)
			if err != nil {
				return err
			}
			metrics, err := run.ParseMetrics(text)
			if err != nil {
				return err
			}
			s := &sight{metrics: metrics}
			name, version = fmt.Sprint(meshInfo("name")(s)), fmt.Sprint(meshInfo("version")(s))
			return nil
		})
		return name, version, p.Log
	}
	xds := func() string { return local(harness.Port(t)) }

	for _, format := range []string{"yaml", "json", "toml"} {
		t.Run("a file in "+format, func(t *testing.T) {
			admin, socket, data := local(harness.Port(t)), filepath.Join(dir, format+".sock"), filepath.Join(dir, "data-"+format)
			settings := map[string]any{
				"file": []string{one, two}, "environment": "b", "catalog": catalog, "xds-address": "unix:" + socket, "admin-address": admin,
				"data-dir": data, "log-format": "text", "log-level": "warn",
			}
			text, err := json.Marshal(settings)
			noError(t, err)
			if format == "toml" {
				var b strings.Builder
				for key, v := range settings {
					value, err := json.Marshal(v)
					noError(t, err)
					fmt.Fprintf(&b, "%s = %s\n", key, value)
				}
				text = []byte(b.String())
			}
			name, version, log := serve(t, admin, nil, "--settings", write("settings."+format, string(text)))
			if name != "two" || version != "b" {
				t.Errorf("it serves %s %s", name, version)
			}
			for _, path := range []string{socket, filepath.Join(data, "ca.pem")} {
				if _, err := os.Stat(path); err != nil {
					t.Errorf("%v", err)
				}
			}
			if said := log.String(); strings.Contains(said, "level=INFO") || strings.Contains(said, `{"time"`) {
				t.Errorf("the log is not of warnings in text: %s", said)
			}
		})
	}

	t.Run("variables", func(t *testing.T) {
		admin, data := local(harness.Port(t)), filepath.Join(dir, "data-of-variables")
		name, version, log := serve(t, admin, []string{
			"CONTROLPLANE_FILE=" + one + "," + two, "CONTROLPLANE_ENVIRONMENT=a", "CONTROLPLANE_CATALOG=" + catalog, "CONTROLPLANE_XDS_ADDRESS=" + xds(),
			"CONTROLPLANE_ADMIN_ADDRESS=" + admin, "CONTROLPLANE_DATA_DIR=" + data, "CONTROLPLANE_XDS_PLAINTEXT=true", "CONTROLPLANE_LOG_FORMAT=text",
		})
		if name != "two" || version != "a" {
			t.Errorf("it serves %s %s", name, version)
		}
		if said := log.String(); !strings.Contains(said, "plaintext=true") {
			t.Errorf("it is not in plaintext: %s", said)
		}
		if _, err := os.Stat(data); err == nil {
			t.Error("plaintext needs no keys, and yet there are some")
		}
	})

	t.Run("a flag wins over a variable, and that over the file", func(t *testing.T) {
		admin := local(harness.Port(t))
		file := write("least.yaml", fmt.Sprintf("{file: [%s], environment: a, admin-address: '%s', log-format: json, log-level: debug}\n", two, local(harness.Port(t))))
		name, version, log := serve(t, admin,
			[]string{"CONTROLPLANE_SETTINGS=" + file, "CONTROLPLANE_ENVIRONMENT=b", "CONTROLPLANE_ADMIN_ADDRESS=" + local(harness.Port(t)), "CONTROLPLANE_XDS_ADDRESS=" + xds(), "ENV=a"},
			"-f", one, "--admin-address", admin, "--catalog", catalog, "--xds-plaintext", "--log-level", "info")
		if name != "one" || version != "b" {
			t.Errorf("it serves %s %s", name, version)
		}
		if said := log.String(); !strings.Contains(said, `"level":"INFO"`) {
			t.Errorf("the log: %s", said)
		}
	})

	t.Run("a key that no flag has is refused", func(t *testing.T) {
		file := write("wrong.yaml", "xds-addr: 127.0.0.1:1\n")
		out, err := tool.Exec(harness.Context(t, 10*time.Second), harness.Binary(), nil, "serve", "-f", one, "--settings", file)
		if err != nil || out.Code != 2 || !strings.Contains(out.Stderr, file) || !strings.Contains(out.Stderr, `"xds-addr"`) {
			t.Errorf("exit code %d, %v: %s", out.Code, err, out.Stderr)
		}
	})
}
