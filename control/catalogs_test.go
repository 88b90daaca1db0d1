package control

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/watch"
)

// catalogs runs a Catalogs until the test ends.
type catalogs struct {
	*Catalogs
	t   *testing.T
	dir string

	mu  sync.Mutex
	got []*watch.Catalog
}

func runCatalogs(t *testing.T) *catalogs {
	t.Helper()
	c := &catalogs{t: t, dir: t.TempDir()}
	c.Catalogs = NewCatalogs(slog.New(slog.DiscardHandler), "", NewRevisions("").Meant, func(cat *watch.Catalog) {
		c.mu.Lock()
		c.got = append(c.got, cat)
		c.mu.Unlock()
	})
	c.lookupEnv = func(string) (string, bool) { return "", false }
	run(t, c.Run)
	return c
}

// inFile is a mesh whose catalog is the file of that name.
func (c *catalogs) inFile(name string) *policy.Mesh {
	return mesh(c.t, fmt.Sprintf("mesh: {name: datapunk, discovery: {method: file, file: %q}}", filepath.Join(c.dir, name)))
}

func (c *catalogs) write(name string, services ...string) {
	c.t.Helper()
	text := "services: {}\n"
	if len(services) > 0 {
		text = "services:\n"
	}
	for i, s := range services {
		text += fmt.Sprintf("  %s: [{id: %[1]s, address: 127.0.0.1, port: %d, meta: {mesh_port: \"%d\"}}]\n", s, 1000+i, 2000+i)
	}
	if err := os.WriteFile(filepath.Join(c.dir, name), []byte(text), 0o600); err != nil {
		c.t.Fatal(err)
	}
}

// last are the names of the services of the newest catalog.
func (c *catalogs) last() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.got) == 0 {
		return nil
	}
	names := []string{}
	for s := range c.got[len(c.got)-1].Services() {
		names = append(names, s.Name)
	}
	return names
}

func (c *catalogs) becomes(names ...string) {
	c.t.Helper()
	for began := time.Now(); !slices.Equal(c.last(), names); time.Sleep(5 * time.Millisecond) {
		if time.Since(began) > 10*time.Second {
			c.t.Fatalf("the catalog has %v, want %v", c.last(), names)
		}
	}
}

func (c *catalogs) follow(m *policy.Mesh) {
	c.t.Helper()
	if err := c.Follow(m); err != nil {
		c.t.Fatal(err)
	}
}

// An edit that names a place where nothing is must not blind the mesh.
func TestASourceGoesOnUntilItsSuccessorHasACatalog(t *testing.T) {
	c := runCatalogs(t)
	c.write("old.yaml", "a")
	c.follow(c.inFile("old.yaml"))
	c.becomes("a")

	c.follow(c.inFile("new.yaml")) // which is not there yet
	c.write("old.yaml", "a", "b")
	c.becomes("a", "b")
	if w := fmt.Sprint(c.Status().Waiting); !strings.Contains(w, "new.yaml") {
		t.Errorf("the status does not say what is missing: %s", w)
	}

	c.write("new.yaml", "c")
	c.becomes("c")
	if s := c.Status(); !s.Ready || len(s.Waiting) > 0 {
		t.Errorf("status %+v, want one that is ready and waits for nothing", s)
	}

	// Nobody hears the old one any more.
	c.write("old.yaml", "d")
	c.write("new.yaml", "e")
	c.becomes("e")
}

func TestAnEditThatIsTakenBackKeepsTheSourceThatRuns(t *testing.T) {
	c := runCatalogs(t)
	c.write("old.yaml", "a")
	c.follow(c.inFile("old.yaml"))
	c.becomes("a")
	c.follow(c.inFile("new.yaml"))
	c.follow(c.inFile("old.yaml"))
	c.write("new.yaml", "b")
	c.write("old.yaml", "a", "c")
	c.becomes("a", "c")
	if s := c.Status(); len(s.Waiting) > 0 {
		t.Errorf("it waits for %v", s.Waiting)
	}
}

// A catalog must never seem to be the successor of one of another source: what
// differs would be taken for unchanged.
func TestCatalogsOfTwoSourcesAreComparedWhole(t *testing.T) {
	c := runCatalogs(t)
	c.write("old.yaml", "a")
	c.write("new.yaml", "b")
	c.follow(c.inFile("old.yaml"))
	c.becomes("a")
	c.follow(c.inFile("new.yaml"))
	c.becomes("b")
	c.mu.Lock()
	defer c.mu.Unlock()
	if names, known := c.got[len(c.got)-1].ChangedSince(c.got[0]); known {
		t.Errorf("the change is said to be %v", names)
	}
}

// What cannot work, whatever Consul does, is refused with the edit.
func TestASourceThatCannotStartChangesNothing(t *testing.T) {
	c := runCatalogs(t)
	c.write("old.yaml", "a")
	c.follow(c.inFile("old.yaml"))
	c.becomes("a")
	err := c.Follow(mesh(t, "mesh: {name: datapunk, discovery: {consul: {scheme: https, tls: {ca_file: /nowhere/ca.pem}}}}"))
	if err == nil || !strings.Contains(err.Error(), "/nowhere/ca.pem") {
		t.Fatalf("error %v, want one that names the file", err)
	}
	c.write("old.yaml", "a", "b")
	c.becomes("a", "b")
	if s := c.Status(); len(s.Waiting) > 0 {
		t.Errorf("it waits for %v", s.Waiting)
	}
}

// A source of the agent that the last one has must not have to share the
// agent's limit of connections with it.
func TestOneAgentHasOneSource(t *testing.T) {
	var mu sync.Mutex
	asked := make(map[string]int) // by datacenter, those under way
	agent := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		dc := r.URL.Query().Get("dc")
		mu.Lock()
		asked[dc]++
		mu.Unlock()
		defer func() { mu.Lock(); asked[dc]--; mu.Unlock() }()
		if r.URL.Query().Get("index") != "" {
			<-r.Context().Done()
			return
		}
		w.Header().Set("X-Consul-Index", "7")
		w.Header().Set("X-Consul-KnownLeader", "true")
		if r.URL.Path == "/v1/catalog/services" && dc == "one" {
			_, _ = w.Write([]byte(`{"consul":[],"a":[]}`))
			return
		}
		if dc == "two" {
			w.WriteHeader(http.StatusInternalServerError)
			_, _ = w.Write([]byte("No path to datacenter"))
			return
		}
		_, _ = w.Write([]byte(`[{"Node":{"Node":"n","Address":"127.0.0.1"},"Service":{"ID":"a","Port":1000,"Meta":{"mesh_port":"2000"}},"Checks":[]}]`))
	}))
	t.Cleanup(agent.Close)
	host, port, _ := strings.Cut(strings.TrimPrefix(agent.URL, "http://"), ":")
	inConsul := func(dc string) *policy.Mesh {
		return mesh(t, fmt.Sprintf("mesh: {name: datapunk, discovery: {consul: {host: %s, port: %s, datacenter: %s}}}", host, port, dc))
	}
	underWay := func(dc string) int { mu.Lock(); defer mu.Unlock(); return asked[dc] }

	c := runCatalogs(t)
	c.follow(inConsul("one"))
	c.becomes("a")
	c.follow(inConsul("two"))
	for began := time.Now(); underWay("one") > 0 || !strings.Contains(fmt.Sprint(c.Status().Waiting), "No path to datacenter"); time.Sleep(5 * time.Millisecond) {
		if time.Since(began) > 10*time.Second {
			t.Fatalf("%d queries of the last source are under way; it waits for %v", underWay("one"), c.Status().Waiting)
		}
	}
	if got := c.last(); !slices.Equal(got, []string{"a"}) {
		t.Errorf("the last good catalog is gone: %v", got)
	}
	c.follow(inConsul("one")) // back: the one that ran is stopped, so it starts anew
	for began := time.Now(); len(c.Status().Waiting) > 0; time.Sleep(5 * time.Millisecond) {
		if time.Since(began) > 10*time.Second {
			t.Fatalf("it waits for %v", c.Status().Waiting)
		}
	}
}
