package sidecar

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"datapunk.dev/controlplane/sidecar/api"
)

func TestEnvoysLogBecomesOurs(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(slog.NewJSONHandler(&out, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
	passOn(strings.NewReader("W\tconfig\tgRPC stream\tclosed\nE\tmain\tbad\n\nnot of its form\nX\ty\tz\nI\tmain\twithout an end"), log)
	want := `{"level":"WARN","msg":"gRPC stream\tclosed","envoy":"config"}
{"level":"ERROR","msg":"bad","envoy":"main"}
{"level":"INFO","msg":"not of its form","envoy":""}
{"level":"INFO","msg":"X\ty\tz","envoy":""}
{"level":"INFO","msg":"without an end","envoy":"main"}
`
	if out.String() != want {
		t.Errorf("logged\n%swant\n%s", out.String(), want)
	}
}

func TestAnEnvoyThatIsOlderIsRefused(t *testing.T) {
	for version, want := range map[string]string{
		"1.40.0/Clean/RELEASE/BoringSSL": "", "1.40.7-dev/Modified/RELEASE/BoringSSL": "", "1.41.0/Clean/RELEASE/BoringSSL": "",
		"2.0.1/Clean/RELEASE/BoringSSL": "", "1.39.9/Clean/RELEASE/BoringSSL": "is Envoy 1.39", "1.4.0/Clean/RELEASE/BoringSSL": "is Envoy 1.4,",
		"": "is it an Envoy?",
	} {
		path := filepath.Join(t.TempDir(), "envoy")
		script := "#!/bin/sh\necho; echo \"$0  version: 0123456789abcdef/" + version + "\"\n"
		if err := os.WriteFile(path, []byte(script), 0o700); err != nil {
			t.Fatal(err)
		}
		p := &Proxy{Options: Options{Log: slog.New(slog.DiscardHandler)}, envoyBin: path}
		err := p.checkVersion(t.Context(), "1.40")
		if (err == nil) != (want == "") || err != nil && (!strings.Contains(err.Error(), want) || !final(err)) {
			t.Errorf("%s: %v, want %q", version, err, want)
		}
		if p.AnyVersion = true; strings.HasPrefix(want, "is Envoy") && p.checkVersion(t.Context(), "1.40") != nil {
			t.Errorf("%s: refused though any will do", version)
		}
	}
}

func TestPortsAreKeptAndTold(t *testing.T) {
	var first, second claims
	defer first.close()
	defer second.close()
	among := portRange{28100, 28120}
	port, moved, err := first.choose("mesh", "127.0.0.1", 0, 0, among)
	if err != nil || moved != nil || port < among.first || port > among.last {
		t.Fatalf("%d, %v, %v", port, moved, err)
	}
	// The other does not get it, though nothing listens there.
	if other, _, err := second.choose("mesh", "127.0.0.1", 0, 0, among); err != nil || other == port {
		t.Errorf("%d, %v", other, err)
	}
	if _, _, err := second.choose("mesh", "127.0.0.1", port, 0, among); err == nil || !strings.Contains(err.Error(), "another sidecar has it") {
		t.Errorf("asked for by name: %v", err)
	}
	// Its own of the last time is not free any more: it is told.
	other, moved, err := second.choose("mesh", "127.0.0.1", 0, port, among)
	if err != nil || moved == nil || other == port {
		t.Errorf("%d, %v, %v", other, moved, err)
	}
	first.close()
	var third claims
	defer third.close()
	if again, moved, err := third.choose("mesh", "127.0.0.1", 0, port, among); err != nil || moved != nil || again != port {
		t.Errorf("kept %d: %d, %v, %v", port, again, moved, err)
	}
}

func TestAStateDirectoryIsOfOneSidecar(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	s, unlock, err := openState(dir, "web")
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := openState(dir, "web"); err == nil || !strings.Contains(err.Error(), "--state-dir") {
		t.Errorf("a second one: %v", err)
	}
	s.Service, s.Node, s.Ports, s.Asked = "web", "web-1", Ports{Mesh: 20000}, &api.BootstrapRequest{AppPort: 1, Tags: []string{"a"}}
	if err := s.save(); err != nil {
		t.Fatal(err)
	}
	unlock()
	again, unlock, err := openState(dir, "web")
	if err != nil || again.Node != "web-1" || again.Ports.Mesh != 20000 || again.Attempt != s.Attempt || !equalRequests(again.Asked, s.Asked) {
		t.Errorf("%+v, %v", again, err)
	}
	unlock()
	if _, _, err := openState(dir, "lake"); err == nil || !strings.Contains(err.Error(), "of web, not of lake") {
		t.Errorf("of another service: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, stateFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := openState(dir, "web"); err == nil || !strings.Contains(err.Error(), stateFile) {
		t.Errorf("torn: %v", err)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, _, err := openState(dir, "web"); err == nil || !strings.Contains(err.Error(), "can be written by others") {
		t.Errorf("of everybody: %v", err)
	}
}
