package consul

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"datapunk.dev/controlplane/consul"
	"datapunk.dev/controlplane/watch"
)

// fakeConsul answers as Consul's HTTP API does, without sockets, so that tests
// run on the fake clock. A hook may answer in its place.
type fakeConsul struct {
	mu       sync.Mutex
	index    uint64
	entries  map[string][]entry
	indexes  map[string]uint64        // of the last change of each service
	services uint64                   // the index of the last registration
	checks   uint64                   // of the last change of a check
	changed  map[string]chan struct{} // of each path that is waited for; closed at a change
	hook     func(*http.Request) (*http.Response, error)
	reads    map[string]uint64 // what a read that does not block is told instead of indexes
	created  map[string]uint64 // when nodes were, those that are there; 1 if they have entries only
	noLeader bool
	noCanary bool
	http2    bool

	// behind is what a server that is behind has of the services; nil: none is.
	behind        map[string][]entry
	behindIndexes map[string]uint64

	unseen      map[string]string // the instance of a service that the token does not see
	connections int               // that a client may open; 0: the default
	fallbacks   []string          // other addresses, which answer alike
	contact     time.Duration     // since stale reads' server has heard from its leader

	asked []request
	most  int // requests at one moment
	now   int
}

// request is one that the source made.
type request struct {
	at         time.Time
	path       string
	index      string
	consistent bool
	url        *url.URL
	header     http.Header
}

func newFake() *fakeConsul {
	return &fakeConsul{
		index: 10, services: 10, checks: 10, entries: make(map[string][]entry), indexes: make(map[string]uint64),
		reads: make(map[string]uint64), created: make(map[string]uint64), changed: make(map[string]chan struct{}),
	}
}

// set replaces the instances of a service; none removes it.
func (f *fakeConsul) set(name string, entries ...entry) {
	f.setAll(map[string][]entry{name: entries})
}

// setAll is set for several services at once.
func (f *fakeConsul) setAll(services map[string][]entry) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.index++
	for name, entries := range services {
		f.put(name, entries)
	}
}

func (f *fakeConsul) put(name string, entries []entry) {
	f.indexes[name] = f.index
	old := f.entries[name]
	f.entries[name] = nil
	for _, e := range entries {
		if e.Node.Node == "n1" { // no two services have an instance of the same ID there
			e.Node.Node += "-" + name
		}
		f.entries[name] = append(f.entries[name], e)
	}
	was, is := parts(old), parts(f.entries[name])
	if was[0] != is[0] {
		f.services = f.index
		f.wakePath("/v1/catalog/services")
	}
	if was[1] != is[1] {
		f.checks = f.index
		f.wakePath("/v1/health/state/any")
	}
	f.wakePath(healthPath(name))
	if len(entries) == 0 {
		delete(f.entries, name)
	}
}

// parts are the entries' instances, and their checks.
func parts(entries []entry) (parts [2]string) {
	for _, e := range entries {
		parts[1] += fmt.Sprintln(e.Node.Node, e.Service.ID, e.Checks)
		e.Checks = nil
		parts[0] += fmt.Sprintln(e)
	}
	return parts
}

// rename registers a service's entry under another name. As with Consul, no index
// of the service moves that loses it; its streaming backend, if that answers what
// blocks, tells of the change nevertheless.
func (f *fakeConsul) rename(id, from, to string, streaming bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.index++
	i := slices.IndexFunc(f.entries[from], func(e entry) bool { return e.Service.ID == id })
	e := f.entries[from][i]
	f.entries[from] = slices.Delete(slices.Clone(f.entries[from]), i, i+1)
	f.entries[to] = append(slices.Clone(f.entries[to]), e)
	f.indexes[to], f.services, f.checks = f.index, f.index, f.index
	paths := []string{healthPath(to), "/v1/catalog/services", "/v1/health/state/any"}
	if streaming {
		if f.reads[from] == 0 {
			f.reads[from] = f.indexes[from]
		}
		f.indexes[from] = f.index
		paths = append(paths, healthPath(from))
	}
	if len(f.entries[from]) == 0 {
		delete(f.entries, from)
	}
	for _, path := range paths {
		f.wakePath(path)
	}
}

// lock changes the fake's state and wakes nobody.
func (f *fakeConsul) lock(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

func (f *fakeConsul) wake() {
	for path := range f.changed {
		f.wakePath(path)
	}
}

func (f *fakeConsul) wakePath(path string) {
	if c := f.changed[path]; c != nil {
		close(c)
		delete(f.changed, path)
	}
}

// lag has one-time reads of services answered by a server that learns of no more
// changes, unless they want the leader. The caller holds the lock.
func (f *fakeConsul) lag() {
	f.behind, f.behindIndexes = maps.Clone(f.entries), maps.Clone(f.indexes)
}

func (f *fakeConsul) catchUp() { f.behind, f.behindIndexes = nil, nil }

// wipe is a server that lost its state.
func (f *fakeConsul) wipe() {
	f.lock(func() {
		f.index, f.services, f.checks = 2, 2, 2
		clear(f.entries)
		clear(f.indexes)
		f.wake()
	})
}

func (f *fakeConsul) fail(hook func(*http.Request) (*http.Response, error)) {
	f.lock(func() { f.hook = hook; f.wake() })
}

// counted says how many requests there were, and how many at once at most.
func (f *fakeConsul) counted() (asked, most int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.asked), f.most
}

func (f *fakeConsul) requests(path string) []request {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []request
	for _, r := range f.asked {
		if r.path == path {
			out = append(out, r)
		}
	}
	return out
}

// RoundTrip implements http.RoundTripper.
func (f *fakeConsul) RoundTrip(req *http.Request) (*http.Response, error) {
	q := req.URL.Query()
	f.mu.Lock()
	f.asked = append(f.asked, request{time.Now(), req.URL.Path, q.Get("index"), q.Has("consistent"), req.URL, req.Header})
	f.now++
	f.most = max(f.most, f.now)
	f.mu.Unlock()
	defer f.lock(func() { f.now-- })

	index, _ := strconv.ParseUint(q.Get("index"), 10, 64)
	wait, _ := time.ParseDuration(q.Get("wait"))
	deadline := time.NewTimer(max(wait, time.Nanosecond))
	defer deadline.Stop()
	for done := index == 0; ; {
		f.mu.Lock()
		hook := f.hook
		if f.changed[req.URL.Path] == nil {
			f.changed[req.URL.Path] = make(chan struct{})
		}
		changed := f.changed[req.URL.Path]
		f.mu.Unlock()
		if hook != nil {
			if resp, err := hook(req); resp != nil || err != nil {
				return resp, err
			}
		}
		resp, at := f.answer(req)
		if done || at != index {
			return resp, nil
		}
		select {
		case <-changed:
		case <-deadline.C:
			done = true
		case <-req.Context().Done():
			return nil, req.Context().Err()
		}
	}
}

func (f *fakeConsul) answer(req *http.Request) (*http.Response, uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.noLeader && !req.URL.Query().Has("stale") {
		return reply(500, "No cluster leader", nil), 0
	}
	var body any
	filtered := false
	index := f.index
	switch name, isService := strings.CutPrefix(req.URL.Path, "/v1/health/service/"); {
	case isService && name == canary && !f.noCanary:
		body = []entry{at1("10.9.9.9")}
	case isService:
		entries, indexes := f.entries, f.indexes
		if q := req.URL.Query(); f.behind != nil && q.Has("stale") && !q.Has("index") {
			entries, indexes = f.behind, f.behindIndexes
		}
		seen := append([]entry{}, entries[name]...)
		if hidden, ok := f.unseen[name]; ok {
			seen = slices.DeleteFunc(seen, func(e entry) bool { return e.Service.ID == hidden })
			filtered = len(seen) < len(entries[name])
		}
		body = seen
		if at, ok := indexes[name]; ok {
			index = at
		}
		if at, ok := f.reads[name]; ok && !req.URL.Query().Has("index") {
			index = at
		}
	case strings.HasPrefix(req.URL.Path, "/v1/catalog/node-services/"):
		body = f.node(strings.TrimPrefix(req.URL.Path, "/v1/catalog/node-services/"))
	case req.URL.Path == "/v1/health/state/any":
		all := make(map[[2]string]wireCheck)
		for name, entries := range f.entries {
			for _, e := range entries {
				for _, c := range e.Checks {
					w := wireCheck{Node: e.Node.Node, CheckID: c.CheckID, Status: c.Status}
					if c.CheckID != "serfHealth" && c.CheckID != "_node_maintenance" { // the node's own
						w.ServiceID, w.ServiceName = e.Service.ID, name
					}
					if req.URL.Query().Get("filter") != `Status != "passing"` || w.Status != "passing" {
						all[[2]string{w.Node, w.CheckID}] = w
					}
				}
			}
		}
		body = slices.AppendSeq([]wireCheck{}, maps.Values(all))
		index = f.checks
	default:
		list := make(map[string][]string)
		meshOnly := strings.Contains(req.URL.Query().Get("filter"), watch.MetaMeshPort)
		for name, entries := range f.entries {
			for _, e := range entries {
				if _, ok := e.Service.Meta[watch.MetaMeshPort]; ok || !meshOnly {
					list[name] = []string{}
				}
			}
		}
		if !f.noCanary {
			list[canary] = []string{}
		}
		body = list
		index = f.services
	}
	data, err := json.Marshal(body)
	if err != nil {
		panic(err)
	}
	var contact time.Duration
	if req.URL.Query().Has("stale") {
		contact = f.contact
	}
	resp := reply(200, string(data), http.Header{
		"X-Consul-Index":       {strconv.FormatUint(index, 10)},
		"X-Consul-Knownleader": {strconv.FormatBool(!f.noLeader)},
		"X-Consul-Lastcontact": {strconv.FormatInt(contact.Milliseconds(), 10)},
	})
	if filtered {
		resp.Header.Set("X-Consul-Results-Filtered-By-ACLs", "true")
	}
	if f.http2 {
		resp.ProtoMajor = 2
	}
	return resp, index
}

// node is what a node has.
func (f *fakeConsul) node(name string) any {
	var node struct {
		Node     *struct{ CreateIndex uint64 }
		Services []struct{ ID, Service string }
	}
	if at, ok := f.created[name]; ok {
		node.Node = &struct{ CreateIndex uint64 }{at}
	}
	for service, entries := range f.entries {
		for _, e := range entries {
			if e.Node.Node != name {
				continue
			}
			if node.Node == nil {
				node.Node = &struct{ CreateIndex uint64 }{1}
			}
			node.Services = append(node.Services, struct{ ID, Service string }{e.Service.ID, service})
		}
	}
	return node
}

func reply(status int, body string, header http.Header) *http.Response {
	if header == nil {
		header = make(http.Header)
	}
	return &http.Response{StatusCode: status, ProtoMajor: 1, Header: header, Body: io.NopCloser(strings.NewReader(body))}
}

// wireCheck is an element of /v1/health/state/any.
type wireCheck struct{ Node, CheckID, Status, Output, ServiceID, ServiceName string }

// at1 is an instance in the mesh at an address, with a passing check.
func at1(address string, edit ...func(*entry)) entry {
	var e entry
	e.Node.Node, e.Node.Address = "n1", "10.255.0.1"
	e.Service.ID, e.Service.Address, e.Service.Port = address, address, 80
	e.Service.Meta = map[string]string{watch.MetaMeshPort: "15006"}
	e.Service.Weights.Passing, e.Service.Weights.Warning = 1, 1
	e.Checks = []check{{CheckID: "service:" + address, Status: "passing"}}
	for _, f := range edit {
		f(&e)
	}
	return e
}

// many are n instances.
func many(n int) []entry {
	var out []entry
	for i := range n {
		out = append(out, at1(fmt.Sprintf("10.0.%d.%d", i/250, i%250+1)))
	}
	return out
}

func status(s string) func(*entry) { return func(e *entry) { e.Checks[0].Status = s } }

// run is a source at work on a fake Consul.
type run struct {
	*Source
	t    *testing.T
	fake *fakeConsul
	logs *bytes.Buffer

	mu       sync.Mutex
	catalogs []*watch.Catalog
	sidecars map[string]watch.Presence // by the ID of the instance
}

// sidecar is what the source is told of sidecars.
func (r *run) sidecar(_ string, i *watch.Instance) watch.Presence {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.sidecars[i.ID]
}

// sidecarsAre sets what is known of the sidecars of instances.
func (r *run) sidecarsAre(p watch.Presence, ids ...string) {
	r.mu.Lock()
	if r.sidecars == nil {
		r.sidecars = make(map[string]watch.Presence)
	}
	for _, id := range ids {
		r.sidecars[id] = p
	}
	r.mu.Unlock()
	r.SidecarsMoved()
	synctest.Wait()
}

// newSource returns a source of a fake Consul.
func newSource(t testing.TB, fake *fakeConsul, cfg Config, demand Demand, log *slog.Logger, publish func(*watch.Catalog)) *Source {
	t.Helper()
	client, err := consul.New(consul.Config{Address: "consul:8500", Fallbacks: fake.fallbacks, RoundTripper: fake, MaxConnections: fake.connections})
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(client, cfg, demand, log, publish)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// start runs a source within a synctest bubble, and stops it with the test.
func start(t *testing.T, fake *fakeConsul, demand Demand) *run {
	t.Helper()
	r := &run{t: t, fake: fake, logs: new(bytes.Buffer)}
	log := slog.New(slog.NewTextHandler(&locked{&r.mu, r.logs}, nil))
	r.Source = newSource(t, fake, Config{Sidecar: r.sidecar}, demand, log, func(c *watch.Catalog) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.catalogs = append(r.catalogs, c)
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	synctest.Wait()
	return r
}

// bubble is synctest.Test.
func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, f)
}

type locked struct {
	mu *sync.Mutex
	w  io.Writer
}

func (l *locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

// published is how many catalogs there were.
func (r *run) published() int {
	synctest.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.catalogs)
}

func (r *run) catalog() *watch.Catalog {
	synctest.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.catalogs) == 0 {
		r.t.Fatalf("nothing was published; status %+v", r.Status())
	}
	return r.catalogs[len(r.catalogs)-1]
}

func (r *run) logged() string {
	synctest.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.logs.String()
}

// want fails unless a service has n instances now; -1: it is not there.
func (r *run) want(name string, n int) {
	r.t.Helper()
	got := -1
	if s := r.catalog().Service(name); s != nil {
		got = len(s.Instances)
	}
	if got != n {
		r.t.Fatalf("service %s has %d instances, want %d; status %+v", name, got, n, r.Status())
	}
}

func (r *run) wantWaiting(part string) {
	r.t.Helper()
	synctest.Wait()
	got := strings.Join(r.Status().Waiting, "\n")
	if (part == "") != (got == "") || !strings.Contains(got, part) {
		r.t.Fatalf("waiting for %q, want %q", got, part)
	}
}

func (r *run) wantHeld(part string) {
	r.t.Helper()
	synctest.Wait()
	got := strings.Join(r.Status().Held, "\n")
	if (part == "") != (got == "") || !strings.Contains(got, part) {
		r.t.Fatalf("held: %q, want %q", got, part)
	}
}
