//go:build component

package main

import (
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"datapunk.dev/controlplane/admin/api"
	"datapunk.dev/controlplane/internal/consulagent"
)

// startElecting starts a replica at a Consul, with the keys of another one if there is one.
func startElecting(t *testing.T, agent *consulagent.Agent, mesh string, of *served) *served {
	t.Helper()
	host, port, err := net.SplitHostPort(agent.HTTP)
	if err != nil {
		t.Fatal(err)
	}
	s := newServed(t, strings.NewReplacer("HOST", host, "PORT", port).Replace(mesh))
	s.change = func(o *settings) { o.Leader, o.MaxCatalogAge = "consul", time.Hour }
	if of != nil {
		if err := os.Mkdir(filepath.Join(s.dir, "data"), 0o700); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"ca.pem", "ca-key.pem", "token-key.pem"} {
			key, err := os.ReadFile(filepath.Join(of.dir, "data", name))
			if err != nil {
				t.Fatal(err)
			}
			s.write("data/"+name, string(key))
		}
	}
	s.start()
	s.ready()
	return s
}

func (s *served) ready() {
	s.t.Helper()
	s.eventually("it is ready", func() bool { return strings.Contains(s.get("/readyz"), `"ready":true`) })
}

func (s *served) mesh() api.MeshStatus {
	s.t.Helper()
	var is api.Status
	if err := json.Unmarshal([]byte(s.get("/api/v1/status")), &is); err != nil {
		s.t.Fatal(err)
	}
	return is.Mesh
}

// Two replicas at a real Consul, with different mesh files: what is pinned at one both
// serve, whichever keeps it, and one that starts meanwhile; a release at the other ends it.
func TestAPinAtOneReplicaIsServedByAll(t *testing.T) {
	agent := consulagent.ForTest(t, consulagent.Options{})
	const old = "mesh: {name: datapunk, version: old, discovery: {consul: {host: HOST, port: PORT}}}\n"
	const edited = "mesh: {name: datapunk, version: new, discovery: {consul: {host: HOST, port: PORT}}}\n"
	a := startElecting(t, agent, old, nil)
	b := startElecting(t, agent, edited, a)
	first, second := a.mesh().Revision, b.mesh().Revision
	for _, s := range []*served{a, b} {
		s.metric("controlplane_replicas", 2)
	}

	began := time.Now()
	if out := a.asks("history", "pin", first); !strings.Contains(out, "by all replicas") {
		t.Errorf("pin: %s", out)
	}
	b.eventually("b serves what a has pinned", func() bool { return b.mesh().Revision == first })
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("b serves it after %s", took)
	} else {
		t.Logf("the other replica serves it after %s", took.Round(time.Millisecond))
	}
	for _, s := range []*served{a, b} {
		s.metric("controlplane_mesh_pinned", 1)
		for _, where := range []string{s.asks("status"), s.asks("check"), s.asks("events"), s.asks("history", "list"), s.get("/readyz")} {
			if !strings.Contains(where, "pinned") || !strings.Contains(where, first) {
				t.Errorf("it is not said to be pinned: %s", where)
			}
		}
	}
	if out := b.asks("history", "show", first); !strings.Contains(out, "version: old") {
		t.Errorf("b shows it as %s", out)
	}

	c := startElecting(t, agent, edited, a)
	if is := c.mesh(); is.Revision != first || is.Pinned == nil {
		t.Errorf("one that starts meanwhile serves %+v", is)
	}

	// Consul is away: each goes on with that, over a restart too, and no word is taken.
	agent.Kill()
	b.eventually("b says so", func() bool { return strings.Contains(b.get("/readyz"), "what the replicas share, as it was last") })
	if _, messages, code := b.answerOf("history", "release", "--admin-address", strings.TrimPrefix(b.url, "http://"), "--data-dir", b.dir+"/data"); code != 1 || !strings.Contains(messages, "not in touch") {
		t.Errorf("a release without Consul: exit code %d, %s", code, messages)
	}
	b.stop()
	b.run()
	b.ready()
	if is := b.mesh(); is.Revision != first || is.Pinned == nil {
		t.Errorf("without Consul b begins with %+v", is)
	}

	// Consul is back, and has nothing of it: they tell it.
	if err := agent.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, s := range []*served{a, b, c} {
		for again := 0; again < 4 && !strings.Contains(s.get("/metrics"), "\ncontrolplane_replicas 3\n"); again++ {
			time.Sleep(5 * time.Second) // Consul is asked again now and then
		}
		s.metric("controlplane_replicas", 3)
	}
	key := "controlplane/datapunk/fleet/pin"
	b.eventually("Consul has the pin again", func() bool {
		pair, _, err := agent.API.KV().Get(key, nil)
		return err == nil && pair != nil && strings.Contains(string(pair.Value), first)
	})
	b.asks("history", "release")
	a.eventually("a serves its file", func() bool { return a.mesh().Revision == first && a.mesh().Pinned == nil })
	c.eventually("c serves its file", func() bool { return c.mesh().Revision == second && c.mesh().Pinned == nil })
	b.eventually("b serves its file", func() bool { return b.mesh().Revision == second && b.mesh().Pinned == nil })
	if keys, _, err := agent.API.KV().Keys("controlplane/datapunk/revisions/", "", nil); err != nil || len(keys) != 0 {
		t.Errorf("Consul keeps %v, %v", keys, err)
	}
}
