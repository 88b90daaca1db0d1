package e2e

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"datapunk.dev/controlplane/admin/api"
	"datapunk.dev/controlplane/control"
	"datapunk.dev/controlplane/e2e/app"
	"datapunk.dev/controlplane/e2e/harness"
	"datapunk.dev/controlplane/e2e/run"
	"datapunk.dev/controlplane/e2e/traffic"
	"datapunk.dev/controlplane/internal/randommesh"
	"datapunk.dev/controlplane/plan"
	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/translate"
	"datapunk.dev/controlplane/watch"
	"datapunk.dev/controlplane/watch/file"
	"datapunk.dev/controlplane/why"
)

// randomCases is how many meshes there are, each with seven calls.
const randomCases = 200

// TestWhyIsRightAboutWhatEnvoysDo: of 200 random meshes, each an edit of the mesh file
// and of the catalog of one fleet, what why says of a call is what becomes of it.
func TestWhyIsRightAboutWhatEnvoysDo(t *testing.T) {
	t.Parallel() // it waits, most of the time
	m := harness.Start(t, harness.Options{Mesh: "mesh: {name: m, security: {authorization: {default_action: ALLOW}}, services: {db: {protocol: tcp}, lake: {}}}\n"})
	nexus := m.Add(harness.Spec{Service: "nexus", ID: "nexus-1", Unregistered: true})
	places := make(map[string]randommesh.Place)
	for _, spec := range []harness.Spec{
		{Service: "lake", ID: "lake-1"}, {Service: "lake", ID: "lake-2"}, {Service: "db", ID: "db-1", SpeaksTCP: true},
	} {
		s := m.Add(spec)
		places[s.ID] = randommesh.Place{Address: "127.0.0.1", Port: s.AppPort, MeshPort: s.MeshPort}
	}
	m.Ready()
	w := &whyMesh{Mesh: m, t: t, places: places, dbPort: harness.Port(t), seen: make(map[string]int)}
	w.fleet = resource.NewFleet(profile(nexus), profile(m.Sidecar("lake-1")), profile(m.Sidecar("lake-2")), profile(m.Sidecar("db-1")))
	for seed := range uint64(randomCases) {
		w.run(seed)
	}
	t.Logf("how the calls ended: %v", w.seen)
	for _, code := range []string{"", "MC3001", "MC3002", "MC3003", "MC3005", "MC3006", "MC3007", "MC3009", "MC3011"} {
		if w.seen[code] < 10 {
			t.Errorf("%d calls ended with %q: too few to say anything", w.seen[code], code)
		}
	}
}

// profile is that of a running sidecar.
func profile(s *harness.Sidecar) resource.Profile {
	return resource.Profile{
		Service: s.Service, Kind: resource.Sidecar, Address: "127.0.0.1", AppPort: uint16(s.AppPort), MeshPort: uint16(s.MeshPort),
		OutboundPort: uint16(s.OutboundPort), MetricsPort: uint16(s.MetricsPort),
	}
}

// whyMesh is a fleet whose mesh file and catalog are edited again and again.
type whyMesh struct {
	*harness.Mesh
	t      *testing.T
	places map[string]randommesh.Place
	fleet  *resource.Fleet
	dbPort int
	seen   map[string]int
}

// run edits, waits for the ACKs of the fleet, and calls.
func (w *whyMesh) run(seed uint64) {
	w.t.Helper()
	m := randommesh.New(seed)
	text := strings.ReplaceAll(m.Text(), randommesh.DBPort, strconv.Itoa(w.dbPort))
	s := w.serve(text, m.Catalog(w.places))
	for _, c := range w.calls(seed) {
		call := why.Call{From: "nexus", To: c.To, Method: c.Method, Path: c.Path, Host: c.Host}
		if name, value, ok := strings.Cut(c.Header, "="); ok {
			call.Headers = map[string]string{name: value}
		}
		v, err := why.Of(s, call)
		noError(w.t, err)
		if live := w.asked(call); !reflect.DeepEqual(live.End, v.End) || !slices.EqualFunc(live.Ways, v.Ways, func(a, b api.Way) bool { return a.End == b.End }) {
			w.t.Errorf("seed %d: %s: the control plane says %s, want %s", seed, c, live.End.Sentence(), v.End.Sentence())
		}
		ends := []why.End{v.End}
		if len(v.Ways) > 0 {
			ends = nil
			for _, way := range v.Ways {
				ends = append(ends, way.End)
			}
		}
		for _, e := range ends {
			w.seen[e.Code]++
		}
		harness.Eventually(w.t, fmt.Sprintf("seed %d: %s ends as is said: %s\n%s%s", seed, c, v.End.Sentence(), text, m.Catalog(w.places)), 5*time.Second, func() error {
			return w.ends(c, v.Protocol, ends)
		})
	}
}

// asked is what the control plane itself says of a call.
func (w *whyMesh) asked(c why.Call) (v api.Verdict) {
	w.t.Helper()
	query := url.Values{"from": {c.From}, "to": {c.To}, "method": {c.Method}, "path": {c.Path}, "host": {c.Host}}
	for name, value := range c.Headers {
		query.Add("header", name+"="+value)
	}
	status, body, err := w.Plane.Get("/api/v1/why?" + query.Encode())
	noError(w.t, err)
	if err := json.Unmarshal([]byte(body), &v); err != nil || status != http.StatusOK {
		w.t.Fatalf("/api/v1/why: %d %v %s", status, err, body)
	}
	return v
}

// calls are some of a mesh, one to db among them.
func (w *whyMesh) calls(seed uint64) []randommesh.Call {
	return append(randommesh.Calls(seed, 6), randommesh.Call{To: "db", Method: "GET", Path: "/"})
}

// serve puts a mesh file and a catalog in force, and returns what is served of them once
// every Envoy has acknowledged it.
func (w *whyMesh) serve(text, catalog string) *translate.Snapshot {
	w.t.Helper()
	mesh, err := policy.Parse([]policy.File{{Name: w.MeshFile(0), Data: []byte(text)}}, policy.Options{})
	noError(w.t, err)
	services, err := file.Parse("catalog.yaml", []byte(catalog))
	noError(w.t, err)
	entries := watch.NewCatalog().Update(services, nil)
	revisions := control.NewRevisions(w.Plane.DataDir())
	for _, content := range []string{text, catalog} {
		noError(w.t, revisions.Mean(policy.Revision([]policy.File{{Data: []byte(content)}})))
	}
	noError(w.t, run.WriteFile(filepath.Join(w.Dir, "catalog.yaml"), catalog))
	noError(w.t, run.WriteFile(w.MeshFile(0), text))
	harness.Eventually(w.t, "the edit is in force\n"+text+catalog, 20*time.Second, func() error {
		status, body, err := w.Plane.Get("/api/v1/replicas")
		if err != nil || status != http.StatusOK {
			return fmt.Errorf("/api/v1/replicas: %d, %w", status, err)
		}
		for _, want := range []string{mesh.Revision, entries.Digest().String()} {
			if !strings.Contains(body, want) {
				return fmt.Errorf("%s is not served: %s", want, body)
			}
		}
		return nil
	})
	noError(w.t, w.Plane.WaitSynced(w.t.Context(), 20*time.Second, "nexus-1", "lake-1", "lake-2", "db-1"))
	return translate.Translate(nil, translate.Input{Mesh: mesh, Catalog: entries, Fleet: w.fleet, Roots: []byte(plan.Roots)})
}

// mostCalls is how often a call of several ways is made until each was seen.
const mostCalls = 60

// ends makes a call until it has ended in each of the ways, and in no other.
func (w *whyMesh) ends(c randommesh.Call, protocol string, ways []why.End) error {
	seen := make(map[int]bool)
	for range mostCalls {
		i, err := w.end(c, protocol, ways)
		if err != nil {
			return err
		}
		for j := range ways { // ways that end alike are seen together
			if ways[j].Outcome == ways[i].Outcome && ways[j].Status == ways[i].Status && ways[j].Path == ways[i].Path {
				seen[j] = true
			}
		}
		if len(seen) == len(ways) {
			return nil
		}
	}
	return fmt.Errorf("of %d ways %d are seen", len(ways), len(seen))
}

// end makes one call, and returns in which of the ways it ended.
func (w *whyMesh) end(c randommesh.Call, protocol string, ways []why.End) (int, error) {
	if protocol == "tcp" {
		ctx, cancel := context.WithTimeout(w.t.Context(), 3*time.Second)
		defer cancel()
		_, err := traffic.Echo(ctx, "127.0.0.1:"+strconv.Itoa(w.dbPort), "hello", 0)
		if (err == nil) != (ways[0].Outcome == api.Passes) {
			return 0, fmt.Errorf("a connection: %w", cmp.Or(err, errors.New("it is answered")))
		}
		return 0, nil
	}
	header := http.Header{}
	if name, value, ok := strings.Cut(c.Header, "="); ok {
		header.Set(name, value)
	}
	r, err := w.Client("nexus-1").Do(w.t.Context(), traffic.Request{Host: c.Host, Method: c.Method, Path: c.Path, Header: header})
	if err != nil {
		return 0, err
	}
	i := slices.IndexFunc(ways, func(e why.End) bool { return endedSo(r, e) == nil })
	if i < 0 {
		return 0, errors.Join(fmt.Errorf("answered %s", r), endedSo(r, ways[0]))
	}
	return i, nil
}

// endedSo returns nil if an answer is the end of a call.
func endedSo(r traffic.Response, e why.End) error {
	if e.Outcome != api.Passes {
		code := e.Code
		if code == "MC3002" {
			code = "MC3001" // a sidecar knows no service that it is not told of
		}
		if r.Status != e.Status || r.Header.Get("location") != e.Location || r.Header.Get("x-mesh-error") != code {
			return fmt.Errorf("%d %s %s, want %d %s %s", r.Status, r.Header.Get("location"), r.Header.Get("x-mesh-error"), e.Status, e.Location, code)
		}
		return nil
	}
	var reply app.Reply
	if err := json.Unmarshal([]byte(r.Body), &reply); err != nil {
		return fmt.Errorf("no application answered: %d %.100s", r.Status, r.Body)
	}
	if r.Status != http.StatusOK || reply.Service != "lake" || reply.Path != e.Path {
		return fmt.Errorf("%d of %s by the path %s, want %s", r.Status, reply.Service, reply.Path, e.Path)
	}
	return nil
}
