package main

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// An edit is planned by the control plane: beside its catalog and its fleet, and with
// what is wrong with it.
func TestAnEditIsPlannedByTheControlPlane(t *testing.T) {
	s := startServe(t, inFile)
	address := strings.TrimPrefix(s.url, "http://")
	edit := func(text string) string {
		s.write("edit.yaml", text)
		return filepath.Join(s.dir, "edit.yaml")
	}
	out, messages, code := s.answerOf("plan", "-f", edit(limited), "--admin-address", address, "--detailed-exitcode")
	if code != 0 || !strings.Contains(out, "nothing differs") {
		t.Errorf("a comment: exit code %d, %s%s", code, out, messages)
	}
	_, messages, code = s.answerOf("plan", "-f", edit("mesh: {nam: x}"), "--admin-address", address)
	if code != 1 || !strings.Contains(messages, "edit.yaml:1:8: MC") || !strings.Contains(messages, "^") || !strings.Contains(messages, "did you mean") {
		t.Errorf("a mistake: exit code %d, %s", code, messages)
	}
	// What stands in the environment of the control plane and in no mesh file is a secret.
	t.Setenv("CONSUL_HTTP_TOKEN", "very-secret")
	_, messages, code = s.answerOf("plan", "-f", edit("mesh: {name: '${CONSUL_HTTP_TOKEN}'}"), "--admin-address", address)
	if code != 1 || strings.Contains(messages, "very-secret") || !strings.Contains(messages, "CONSUL_HTTP_TOKEN") {
		t.Errorf("a variable of the control plane: exit code %d, %s", code, messages)
	}
	if _, messages, code = s.answerOf("plan", "-f", edit(limited), "--admin-address", "127.0.0.1:1"); code != 3 {
		t.Errorf("nobody answers: exit code %d, %s", code, messages)
	}
	if _, messages, code = s.answerOf("plan", "-f", edit(limited), "--admin-address", address, "--catalog", "file:x"); code != 1 || !strings.Contains(messages, "means nothing without --against") {
		t.Errorf("with a catalog: exit code %d, %s", code, messages)
	}
}

// What is likely a mistake in the file in force is found beside the catalog in force.
func TestTheControlPlaneAnalyzes(t *testing.T) {
	s := startServe(t, "mesh: {name: datapunk, discovery: {method: file, file: %s/catalog.yaml}, services: {lakee: {}}}")
	out, messages, code := s.answerOf("analyze", "--live", "--admin-address", strings.TrimPrefix(s.url, "http://"))
	if code != 2 || !strings.Contains(out, "MC2201: warning: service lakee: the catalog has no service lakee") {
		t.Errorf("exit code %d, %s%s", code, out, messages)
	}
	if _, _, code := s.answerOf("analyze", "--live", "--suppress", "MC2201,MC2211", "--admin-address", strings.TrimPrefix(s.url, "http://")); code != 0 {
		t.Errorf("suppressed: exit code %d", code)
	}
}

// What is wrong has a hint and a page that there is.
func TestTheControlPlaneChecksItself(t *testing.T) {
	s := startServe(t, inFile)
	out := s.asks("check")
	for _, want := range []string{"OK  ready", "OK  mesh file", "OK  catalog", "OK  authority", "OK  data directory", "OK  proxies", "OK  ports"} {
		if !strings.Contains(out, want) {
			t.Errorf("want %q in\n%s", want, out)
		}
	}
	s.write("mesh.yaml", "mesh: {nam: x}\n")
	var code int
	s.eventually("the file is refused", func() bool {
		out, _, code = s.answerOf("check", "--admin-address", strings.TrimPrefix(s.url, "http://"))
		return code == 2
	})
	if !strings.Contains(out, "FAILED  mesh file") || !strings.Contains(out, "controlplane validate -f") || !strings.Contains(out, "see docs/operations.md#running") {
		t.Errorf("%s", out)
	}
}

// What is collected has all that the API shows, and no secret of the data directory.
func TestWhatIsCollectedHasNoSecret(t *testing.T) {
	s := startServe(t, inFile)
	file := filepath.Join(s.dir, "bundle.tar.gz")
	s.asks("collect", "-o", file)
	var secrets []string
	for _, name := range []string{"ca-key.pem", "token-key.pem"} {
		text, err := os.ReadFile(filepath.Join(s.dir, "data", name))
		if err != nil {
			t.Fatal(err)
		}
		secrets = append(secrets, strings.Split(string(text), "\n")[1])
	}
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // read only
	zip, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for archive := tar.NewReader(zip); ; {
		head, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(archive)
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, strings.TrimPrefix(head.Name, "controlplane/"))
		for _, secret := range append(secrets, "PRIVATE KEY") {
			if strings.Contains(string(text), secret) {
				t.Errorf("%s has a secret", head.Name)
			}
		}
	}
	for _, want := range []string{"status.json", "proxies.json", "certificates.json", "events.json", "checks.json", "findings.json", "metrics.txt", "revisions.json"} {
		if !slices.Contains(names, want) {
			t.Errorf("%s is not among %v", want, names)
		}
	}
	if help, _, _ := s.answerOf("collect", "--help"); !strings.Contains(help, "values taken from the environment") {
		t.Errorf("what else is in it is not said: %s", help)
	}
	if _, messages, code := s.answerOf("collect", "-o", file, "--admin-address", strings.TrimPrefix(s.url, "http://")); code != 1 {
		t.Errorf("a file that is there: exit code %d, %s", code, messages)
	}
}
