package e2e

import (
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"datapunk.dev/controlplane/e2e/harness"
	"datapunk.dev/controlplane/e2e/traffic"
	"datapunk.dev/controlplane/internal/tool"
)

// mistakes are edits of the operators' file: what stood there, what an operator
// writes instead, and the words of it that the error is about.
var mistakes = []struct{ right, wrong, at, code string }{
	{"method: consul", "method: zookeeper", "zookeeper", "MC1103"},
	{"port: ${CONSUL_PORT:-8500}", "port: 85000", "85000", "MC1102"},
	{"register_interval: 10s", "register_interval: 10", "10", "MC1101"},
	{"max_connections: 1024", "max_conections: 1024", "max_conections", "MC1003"},
	{"policy: least_request", "policy: least_requests", "least_requests", "MC1103"},
	{"multiplier: 2", "multiplier: 1.5", "1.5", "MC1207"},
	{"- connect-failure", "- connect-fail", "connect-fail", "MC1208"},
	{"sampling_rate: 0.1", "sampling_rate: 10", "10", "MC1102"},
	{"cert_rotation: 24h", `cert_rotation: "daily"`, "daily", "MC1101"},
	{`principals: ["spiffe://datapunk/*"]`, `principals: ["spiffe://*/nexus"]`, "spiffe://*/nexus", "MC1501"},
}

// withMistakes returns the operators' file with all of them.
func withMistakes(t *testing.T) string {
	t.Helper()
	text := harness.Seed(t)
	for _, m := range mistakes {
		if strings.Count(text, m.right) == 0 {
			t.Fatalf("the seed does not have %q", m.right)
		}
		text = strings.Replace(text, m.right, m.wrong, 1)
	}
	return text
}

// asReported returns the head of the line that an error has, the line of the
// file, and the place of the caret under it.
func asReported(t *testing.T, file, text string, i int) (head, excerpt, caret string) {
	t.Helper()
	for n, line := range strings.Split(text, "\n") {
		column := strings.Index(line, mistakes[i].wrong)
		if column < 0 {
			continue
		}
		column += strings.Index(mistakes[i].wrong, mistakes[i].at)
		if quoted := column > 0 && line[column-1] == '"'; quoted {
			column-- // the caret is under the quotes too
		}
		number := fmt.Sprint(n + 1)
		head = fmt.Sprintf("%s:%d:%d: %s: ", file, n+1, column+1, mistakes[i].code)
		return head, number + " | " + line, strings.Repeat(" ", len(number)) + " | " + strings.Repeat(" ", column) + "^"
	}
	t.Fatalf("%q is not in the file", mistakes[i].wrong)
	return "", "", ""
}

func TestTenMistakesInAFileAreReportedAllWithLineAndCaret(t *testing.T) {
	file := filepath.Join(harness.Dir(t), "mesh.yaml")
	text := withMistakes(t)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, command := range [][]string{
		{"validate", "-f", file},
		{"serve", "-f", file, "--data-dir", filepath.Join(filepath.Dir(file), "data")},
	} {
		t.Run(command[0], func(t *testing.T) {
			out, err := tool.Exec(harness.Context(t, 10*time.Second), harness.Binary(), nil, command...)
			if err != nil {
				t.Fatal(err)
			}
			if out.Code != 1 || out.Stdout != "" {
				t.Errorf("exit code %d, stdout %q", out.Code, out.Stdout)
			}
			lines := strings.Split(out.Stderr, "\n")
			errors := regexp.MustCompile(`^\S+:\d+:\d+: MC1\d\d\d: `)
			var found int
			for n, line := range lines {
				if !errors.MatchString(line) {
					continue
				}
				if found == len(mistakes) {
					t.Fatalf("one more error than there are mistakes: %s", line)
				}
				head, excerpt, caret := asReported(t, file, text, found)
				if !strings.HasPrefix(line, head) {
					t.Errorf("mistake %d is reported as %q, want %q…", found, line, head)
				}
				if lines[n+1] != excerpt || !strings.HasPrefix(lines[n+2], caret) {
					t.Errorf("below it stands\n%s\n%s\nwant\n%s\n%s", lines[n+1], lines[n+2], excerpt, caret)
				}
				found++
			}
			if found != len(mistakes) {
				t.Errorf("%d of %d mistakes are reported:\n%s", found, len(mistakes), out.Stderr)
			}
		})
	}

	// And each of them alone is an error, or the ten would be fewer.
	for _, m := range mistakes {
		if err := os.WriteFile(file, []byte(strings.Replace(harness.Seed(t), m.right, m.wrong, 1)), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := tool.Exec(harness.Context(t, 10*time.Second), harness.Binary(), nil, "validate", "-f", file)
		if err != nil || out.Code != 1 || !strings.Contains(out.Stderr, m.code) {
			t.Errorf("%s alone: exit code %d, %v: %s", m.wrong, out.Code, err, out.Stderr)
		}
	}
}

func TestValidateAcceptsTheExample(t *testing.T) {
	out, err := tool.Exec(harness.Context(t, 10*time.Second), harness.Binary(), nil, "validate", "-f", filepath.Join(tool.Root(), "configs", "mesh.yaml"))
	if err != nil || out.Code != 0 || regexp.MustCompile(`MC\d\d\d\d`).MatchString(strings.ReplaceAll(out.Stderr, "MC2102", "")) {
		t.Errorf("exit code %d, %v: %s", out.Code, err, out.Stderr)
	}
}

// TestWhatServeCannotStartWithIsOneClearLine: exit code 2 for a command line
// that is wrong, 1 for everything else.
func TestWhatServeCannotStartWithIsOneClearLine(t *testing.T) {
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = busy.Close() }()
	dir := harness.Dir(t)
	seed := filepath.Join(tool.Root(), "configs", "mesh.yaml")
	socket := filepath.Join(dir, "busy.sock")
	busySocket, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = busySocket.Close() }()

	// dataDir returns a data directory of a control plane, with one file of it
	// replaced by what spoil makes of it.
	dataDir := func(name, file string, spoil func(path string) error) string {
		data := filepath.Join(dir, name)
		out, err := tool.Exec(harness.Context(t, 10*time.Second), harness.Binary(), nil, "serve", "-f", seed, "--data-dir", data,
			"--catalog", "file:"+filepath.Join(dir, "catalog.yaml"), "--admin-address", busy.Addr().String(), "--xds-address", "127.0.0.1:0")
		if err != nil || out.Code != 1 { // it ends, and leaves its directory behind
			t.Fatalf("%v: %+v", err, out)
		}
		if err := spoil(filepath.Join(data, file)); err != nil {
			t.Fatal(err)
		}
		return data
	}
	garbage := func(path string) error { return os.WriteFile(path, []byte("not a key"), 0o600) }
	readable := func(path string) error { return os.Chmod(path, 0o640) }
	directory := func(path string) error {
		if err := os.Remove(path); err != nil {
			return err
		}
		return os.Mkdir(path, 0o700)
	}
	free := []string{"--xds-address", "127.0.0.1:0", "--admin-address", "127.0.0.1:0"}
	good := filepath.Join(dir, "good")

	for _, c := range []struct {
		name  string
		code  int
		line  string // a pattern
		flags []string
	}{
		{"the xDS port is in use", 1, `--xds-address: .*` + regexp.QuoteMeta(busy.Addr().String()) + `.*address already in use`, []string{"--data-dir", good, "--xds-address", busy.Addr().String()}},
		{"the admin port is in use", 1, `--admin-address: .*` + regexp.QuoteMeta(busy.Addr().String()) + `.*address already in use`, []string{"--data-dir", good, "--xds-address", "127.0.0.1:0", "--admin-address", busy.Addr().String()}},
		{"the xDS socket is in use", 1, `--xds-address: .*busy\.sock.*another process`, []string{"--data-dir", good, "--xds-address", "unix:" + socket, "--admin-address", "127.0.0.1:0"}},
		{"the CA key is no key", 1, `ca-key\.pem`, append(free, "--data-dir", dataDir("garbage", "ca-key.pem", garbage))},
		{"the CA key cannot be read", 1, `ca-key\.pem`, append(free, "--data-dir", dataDir("directory", "ca-key.pem", directory))},
		{"the CA key is readable by others", 1, `ca-key\.pem.*0?640`, append(free, "--data-dir", dataDir("readable", "ca-key.pem", readable))},
		{"the root is no certificate", 1, `ca\.pem`, append(free, "--data-dir", dataDir("root", "ca.pem", garbage))},
		{"the data directory is a file", 1, `configs/mesh\.yaml`, append(free, "--data-dir", seed)},
		{"no mesh file", 1, `nowhere\.yaml.*no such file`, append(free, "-f", filepath.Join(dir, "nowhere.yaml"))},
		{"an unknown flag", 2, `--data-dri`, []string{"--data-dri", good}},
		{"a catalog that there is not", 2, `zookeeper.*consul or file:PATH`, []string{"--catalog", "zookeeper"}},
		{"an address without a port", 2, `18000.*HOST:PORT`, []string{"--xds-address", "18000"}},
		{"a log level that there is not", 2, `--log-level`, []string{"--log-level", "loud"}},
		{"plaintext xDS to the whole world", 2, `loopback`, []string{"--xds-plaintext", "--xds-address", "0.0.0.0:18000"}},
		{"plaintext xDS with mTLS", 1, `mtls`, append(free, "--xds-plaintext")},
	} {
		t.Run(c.name, func(t *testing.T) {
			args := append([]string{"serve", "-f", seed, "--catalog", "file:" + filepath.Join(dir, "catalog.yaml")}, c.flags...)
			out, err := tool.Exec(harness.Context(t, 10*time.Second), harness.Binary(), nil, args...)
			if err != nil {
				t.Fatal(err)
			}
			if out.Code != c.code || out.Stdout != "" {
				t.Errorf("exit code %d, want %d; stdout %q", out.Code, c.code, out.Stdout)
			}
			// The first start with a directory says that it has made an authority.
			said := regexp.MustCompile(`(?m)^.*a new authority was made.*\n`).ReplaceAllString(out.Stderr, "")
			line, rest, _ := strings.Cut(said, "\n")
			if !regexp.MustCompile(c.line).MatchString(line) || rest != "" {
				t.Errorf("stderr is\n%s\nwant one line that matches %s", out.Stderr, c.line)
			}
			if strings.Contains(out.Stderr, "panic") || strings.Contains(out.Stderr, "not a key") {
				t.Errorf("stderr is\n%s", out.Stderr)
			}
		})
	}
}

func TestBadEditWhileServingIsRefusedWithItsLineAndTheMeshGoesOn(t *testing.T) {
	m := harness.Start(t, harness.Options{})
	m.Add(harness.Spec{Service: "lake_service", ID: "lake-1"})
	m.Ready()
	good := harness.Seed(t)
	versions, sent := m.Dump("lake-1").Versions(), pushes(t, m)
	load := m.Load("lake-1", "lake_service", traffic.Load{Rate: 100})

	bad := strings.Replace(withMistakes(t), "      interval: 10s\n", "      interval: 11s\n", 1) // with an edit that is right in it
	m.Edit(bad)
	harness.Eventually(t, "the file is refused, and the log says where", 10*time.Second, func() error {
		if n := m.Metrics()["controlplane_mesh_rejected"]; n != 1 {
			return fmt.Errorf("controlplane_mesh_rejected is %v", n)
		}
		for i := range mistakes {
			head, _, _ := asReported(t, m.MeshFile(0), bad, i)
			place := strings.TrimSuffix(head, ": "+mistakes[i].code+": ")
			line := regexp.MustCompile(`"level":"ERROR".*mesh file refused.*"source":"` + regexp.QuoteMeta(place) + `".*` + mistakes[i].code)
			if n := len(m.Plane.Log.Matching(line)); n != 1 {
				return fmt.Errorf("the log says %d times that %s (%s) is wrong", n, place, mistakes[i].code)
			}
		}
		return nil
	})
	status, ready, err := m.Plane.Readyz()
	if err != nil || status != 200 || !strings.Contains(strings.Join(ready.Holding, "\n"), "the last good mesh file: "+m.MeshFile(0)+":") {
		t.Errorf("/readyz: %d, %v, holding %q", status, err, ready.Holding)
	}

	// Nothing of it has reached the mesh, which goes on: a new instance too.
	m.Add(harness.Spec{Service: "lake_service", ID: "lake-2"})
	m.Ready()
	if after := m.Dump("lake-1").Versions(); !maps.Equal(after, versions) {
		t.Errorf("versions %v, before the bad edit %v", after, versions)
	}
	if after := pushes(t, m); after["listener"] != sent["listener"]+1 || after["cluster"] != sent["cluster"]+1 {
		t.Errorf("pushes %v, before %v: only the new proxy should have been sent clusters and listeners", after, sent)
	}
	m.Call("lake-1", "lake_service", "/")

	// The next good edit is taken.
	m.Edit(strings.Replace(good, "      interval: 10s\n", "      interval: 11s\n", 1))
	harness.Eventually(t, "the good edit is taken", 10*time.Second, func() error {
		if got := m.Resource("lake-1", "cluster", "lake_service").Field("health_checks.0.interval"); got != "11s" {
			return fmt.Errorf("the interval of the health checks is %v", got)
		}
		if n := m.Metrics()["controlplane_mesh_rejected"]; n != 0 {
			return fmt.Errorf("controlplane_mesh_rejected is %v", n)
		}
		return nil
	})
	if status, ready, err := m.Plane.Readyz(); err != nil || status != 200 || len(ready.Holding) != 0 {
		t.Errorf("/readyz: %d, %v, holding %q", status, err, ready.Holding)
	}
	if r := load.Stop(); r.Failed() != 0 {
		t.Errorf("%s", r)
	}
}
