package main

import (
	"context"
	"strings"
	"testing"
	"time"

	"datapunk.dev/controlplane/admin/api"
	"datapunk.dev/controlplane/internal/testlog"
)

// What is wrong stands in words, with the line that made it; and nothing that a proxy
// says moves the terminal.
func TestStatusSaysWhatIsWrong(t *testing.T) {
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	is := &fleetStatus{
		Status: api.Status{
			Replica: "cp-1", Version: "v1", Ready: true, Mesh: api.MeshStatus{Name: "m", Revision: "0123456789ab"},
			Holding: []string{"the last good mesh file: edit.yaml:3:1"},
			Held:    []api.HeldResource{{Type: "cluster", Name: "lake", Why: "no such thing", Source: "mesh.yaml:4:2"}},
		},
		Replicas: api.Replicas{Leadership: "self"},
		Proxies: []api.Proxy{{
			Node: "lake-1\x1b[2J", Service: "lake", Connected: now.Add(-time.Minute),
			Types: map[string]api.TypeStatus{
				"cluster": {State: api.Synced}, "endpoint": {State: api.Pending}, "route": {State: api.NotSent},
				"listener": {State: api.Rejected, LastNack: &api.Nack{Time: now, Resource: "inbound", Message: "cannot bind", Source: "mesh.yaml:7:5", Cause: "port"}},
			},
		}},
	}
	var out strings.Builder
	if err := printFleet(&out, &output{form: "table"}, is, now); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"cp-1 v1: ready, mesh m at revision 0123456789ab, 0 services",
		"holding: the last good mesh file: edit.yaml:3:1",
		"held: cluster lake from mesh.yaml:4:2: no such thing",
		"lake-1?[2J  lake     SYNCED   PENDING   -       REJECTED  -             NOT_SENT  -        1m0s",
		"lake-1?[2J rejects listener inbound at 2026-01-01T12:00:00Z: cannot bind\n    for what is on its own machine: port\n    from mesh.yaml:7:5\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("want %q in\n%s", want, out.String())
		}
	}
	if strings.Contains(out.String(), "\x1b") {
		t.Error("it moves the terminal")
	}
}

// The same names stand in JSON and YAML, and names are completed from the server.
func TestStatusOfAControlPlane(t *testing.T) {
	s := startServe(t, inFile)
	for form, says := range map[string]string{"table": "leads,asked", "json": `"revision": "`, "yaml": "\n  mesh:\n    name: datapunk\n"} {
		if out := s.asks("status", "-o", form); !strings.Contains(out, says) {
			t.Errorf("-o %s: %s", form, out)
		}
	}
	if out := s.asks("certs"); !strings.Contains(out, "trust domain datapunk, root sha256:") {
		t.Errorf("certs: %s", out)
	}
	if out := s.asks("certs", "--chain"); !strings.HasPrefix(out, "-----BEGIN CERTIFICATE-----") || strings.Contains(out, "PRIVATE KEY") {
		t.Errorf("certs --chain: %s", out)
	}
	address := strings.TrimPrefix(s.url, "http://")
	out, _, _ := s.answerOf("__complete", "status", "--admin-address", address, "--service", "w")
	if !strings.HasPrefix(out, "web\n") {
		t.Errorf("completed to %q", out)
	}
	if _, messages, code := s.answerOf("status", "lake-9", "--admin-address", address); code != 1 || !strings.Contains(messages, "no proxy with the node.id lake-9") {
		t.Errorf("exit code %d, %s", code, messages)
	}
	if _, messages, code := s.answerOf("certs", "rotate", "--node", "lake-9", "--admin-address", address, "--data-dir", s.dir+"/data"); code != 1 || !strings.Contains(messages, "no proxy of this replica") {
		t.Errorf("exit code %d, %s", code, messages)
	}
}

// With --watch it is shown again, until the command is ended, which is no error.
func TestStatusIsWatched(t *testing.T) {
	s := startServe(t, inFile)
	ctx, end := context.WithCancel(t.Context())
	root := newRootCommand()
	out := &testlog.Buffer{}
	root.SetOut(out)
	root.SetArgs([]string{"status", "--watch", "--interval", "100ms", "--admin-address", strings.TrimPrefix(s.url, "http://")})
	done := make(chan error, 1)
	go func() { done <- root.ExecuteContext(ctx) }()
	s.eventually("it is shown again", func() bool { return strings.Count(out.String(), "leads,asked") >= 3 })
	end()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if strings.Contains(out.String(), "\x1b") {
		t.Error("what is no terminal is given colors")
	}
}
