package main

import (
	"encoding/json"
	"errors"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"datapunk.dev/controlplane/admin/api"
	"datapunk.dev/controlplane/control"
	"datapunk.dev/controlplane/policy"
)

// limited is a mesh file that says something of a service.
const limited = inFile + "\n# the second\n"

// An operator goes back to a revision: it is served, and shown, until it is released,
// over a restart too; what comes meanwhile waits behind it.
func TestARevisionIsPinnedUntilItIsReleased(t *testing.T) {
	s := startServe(t, inFile)
	list := func() (is api.Revisions) {
		t.Helper()
		if err := json.Unmarshal([]byte(s.asks("history", "list", "-o", "json")), &is); err != nil {
			t.Fatal(err)
		}
		return is
	}
	serving := func() string {
		t.Helper()
		for _, r := range list().Revisions {
			if r.InForce {
				return r.Revision
			}
		}
		return ""
	}
	first := serving()
	s.write("mesh.yaml", limited)
	s.eventually("the second is in force", func() bool { return serving() != first && serving() != "" })
	second := serving()

	if out := s.asks("history", "show", first); strings.Contains(out, "the second") || !strings.Contains(out, "name: datapunk") {
		t.Errorf("show: %s", out)
	}
	address := strings.TrimPrefix(s.url, "http://")
	if out, _, code := s.answerOf("history", "diff", first, "--admin-address", address); code != 2 || !strings.Contains(out, "-# the second") {
		t.Errorf("diff: exit code %d, %s", code, out)
	}

	s.asks("history", "pin", first)
	s.eventually("the first is in force", func() bool { return serving() == first })
	for _, where := range []string{s.asks("status"), s.asks("check"), s.asks("history", "list"), s.get("/readyz")} {
		if !strings.Contains(where, "pinned") {
			t.Errorf("it is not said to be pinned: %s", where)
		}
	}
	s.metric("controlplane_mesh_pinned", 1)
	s.write("mesh.yaml", limited+"# the third\n")
	s.eventually("the third is behind", func() bool {
		is := list()
		return is.Pinned != nil && is.Pinned.Behind != "" && is.Pinned.Behind != second
	})
	if got := serving(); got != first {
		t.Errorf("%s is served", got)
	}

	s.stop()
	s.run()
	if is := list(); is.Pinned == nil || is.Pinned.Revision != first || serving() != first {
		t.Fatalf("after a restart: %+v", is)
	}
	s.asks("history", "release")
	s.eventually("the third is in force", func() bool { return serving() != first && serving() != second && serving() != "" })
	if is := list(); is.Pinned != nil {
		t.Errorf("still pinned: %+v", is.Pinned)
	}
	s.metric("controlplane_mesh_pinned", 0)
	s.stop()
	s.run()
	if is := list(); is.Pinned != nil || serving() == first {
		t.Errorf("after another restart: %+v", is)
	}

	address = strings.TrimPrefix(s.url, "http://")
	if _, messages, code := s.answerOf("history", "pin", "0123456789ab", "--admin-address", address, "--data-dir", s.dir+"/data"); code != 1 || !strings.Contains(messages, "is not kept") {
		t.Errorf("pin of nothing: exit code %d, %s", code, messages)
	}
	if _, messages, code := s.answerOf("history", "release", "--admin-address", address, "--data-dir", s.dir+"/data"); code != 1 || !strings.Contains(messages, "no revision is pinned") {
		t.Errorf("release of nothing: exit code %d, %s", code, messages)
	}
	if _, messages, code := s.answerOf("history", "pin", second, "--admin-address", address, "--data-dir", t.TempDir()); code != 1 || !strings.Contains(messages, "takes a token") {
		t.Errorf("pin by nobody: exit code %d, %s", code, messages)
	}
}

// What is bad of the file is said after a release too: the one that was behind is served,
// and not the newest.
func TestABadFileIsSaidAfterARelease(t *testing.T) {
	s := startServe(t, inFile)
	revision := func() string { return regexp.MustCompile(`[0-9a-f]{12}`).FindString(s.asks("history", "list")) } // the newest
	first := revision()
	s.asks("history", "pin", first)
	s.write("mesh.yaml", limited)
	s.eventually("the second is behind", func() bool {
		behind := regexp.MustCompile(`"behind": ?"([0-9a-f]+)"`).FindStringSubmatch(s.asks("history", "list", "-o", "json"))
		return behind != nil && behind[1] != first
	})
	s.metric("controlplane_mesh_rejected", 0)
	s.write("mesh.yaml", "mesh: {nam: x}\n")
	s.metric("controlplane_mesh_rejected", 1)
	s.asks("history", "release")
	s.eventually("the second is in force", func() bool { return revision() != first })
	s.metric("controlplane_mesh_pinned", 0)
	s.metric("controlplane_mesh_rejected", 1)
	if ready := s.get("/readyz"); !strings.Contains(ready, "mesh.yaml:1:8") || strings.Contains(ready, "pinned") {
		t.Errorf("after the release: %s", ready)
	}
}

// A revision that this process cannot go on with stops no start: the file is served, and
// it is said that what is pinned is not.
func TestAPinThatCannotBeServedStopsNoStart(t *testing.T) {
	const root = "sha256:0000000000000000000000000000000000000000000000000000000000000000"
	inside := strings.TrimSuffix(inFile, "}")
	for name, c := range map[string]struct{ mesh, says string }{
		"of another trust domain": {inside + ", security: {mtls: {trust_domain: other}}}", "the trust domain would change"},
		"of another root":         {inside + ", security: {mtls: {root: \"" + root + "\"}}}", "security.mtls.root is " + root},
		"without a certificate":   {"mesh: {name: datapunk, discovery: {consul: {scheme: https, tls: {ca_file: %s/ca.pem}}}}", "ca.pem"},
		"that is not kept":        {"", "is not kept"},
	} {
		t.Run(name, func(t *testing.T) {
			s := startServe(t, inFile)
			s.stop()
			data, pinned := filepath.Join(s.dir, "data"), "0123456789ab"
			if c.mesh != "" {
				s.write("mesh.yaml", c.mesh)
				revisions := control.NewRevisions(data)
				m := loaded(t, filepath.Join(s.dir, "mesh.yaml"))
				s.write("mesh.yaml", inFile)
				if err := errors.Join(revisions.Keep(m, ""), revisions.Keep(loaded(t, filepath.Join(s.dir, "mesh.yaml")), "")); err != nil {
					t.Fatal(err)
				}
				pinned = m.Revision
			}
			s.write("data/pinned.json", `{"revision": "`+pinned+`", "by": "ada", "since": "2026-01-02T03:04:05Z"}`)
			s.run()
			for what, text := range map[string]string{"/readyz": s.get("/readyz"), "the log": s.log.String(), "history list": s.asks("history", "list", "-o", "json")} {
				if !strings.Contains(text, pinned) || !strings.Contains(text, "ada") || !strings.Contains(text, c.says) {
					t.Errorf("%s: %s", what, text)
				}
			}
			if table := s.asks("history", "list"); c.mesh != "" && !strings.Contains(table, "pinned by ada, and cannot be served") {
				t.Errorf("the table is %s", table)
			}
			s.metric("controlplane_mesh_pinned", 0)
			s.write("mesh.yaml", limited) // which nothing holds back
			s.metric("controlplane_mesh_reloads_total", 1)
			s.asks("history", "release")
			s.stop()
			s.run()
			if ready := s.get("/readyz"); strings.Contains(ready, "pinned") {
				t.Errorf("after a release and a restart: %s", ready)
			}
		})
	}
}

func loaded(t *testing.T, path string) *policy.Mesh {
	t.Helper()
	m, err := policy.Load([]string{path}, policy.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// What happened is listed, with who did it.
func TestEventsSayWhatHappened(t *testing.T) {
	s := startServe(t, inFile)
	first := regexp.MustCompile(`[0-9a-f]{12}`).FindString(s.asks("history", "list"))
	s.write("mesh.yaml", limited)
	s.eventually("an edit is an event", func() bool { return strings.Contains(s.asks("events"), "mesh_in_force") })
	s.write("mesh.yaml", "mesh: {nam: x}\n")
	s.eventually("a bad one too, with its line", func() bool {
		return regexp.MustCompile(`mesh_refused .* from .*mesh\.yaml:1:8: `).MatchString(s.asks("events"))
	})
	s.asks("history", "pin", first)
	is := api.Events{}
	if err := json.Unmarshal([]byte(s.asks("events", "-o", "json")), &is); err != nil {
		t.Fatal(err)
	}
	var kinds []string
	for _, e := range is.Events {
		kinds = append(kinds, string(e.Kind))
		if e.Kind == api.Acted && (e.Operator == "" || e.Message != "/api/v1/revisions/"+first+"/pin" || e.Time.IsZero()) {
			t.Errorf("an act is %+v", e)
		}
	}
	if got := strings.Join(kinds, " "); got != "mesh_in_force mesh_refused mesh_pinned acted" {
		t.Errorf("the events are %s", got)
	}
	if out := s.asks("events", "--after", is.Events[1].Cursor); strings.Contains(out, "mesh_refused") || !strings.Contains(out, "mesh_pinned") {
		t.Errorf("after the second: %s", out)
	}
}
