package control

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"datapunk.dev/controlplane/watch"
	"datapunk.dev/controlplane/watch/memory"
)

// wide is a catalog of services with n instances each.
func wide(n int, names ...string) *watch.Catalog {
	var services []*watch.Service
	for k, name := range names {
		s := &watch.Service{Name: name}
		var instances []*watch.Instance
		for i := range n {
			instances = append(instances, &watch.Instance{
				ID: fmt.Sprintf("%s-%d", name, i), Address: netip.AddrFrom4([4]byte{10, 0, byte(k), byte(i + 1)}), Port: 8080, MeshPort: 15008, Weight: 1,
			})
		}
		s.SetInstances(instances)
		services = append(services, s)
	}
	return watch.NewCatalog().Update(services, nil)
}

// fewer is the catalog with so many instances of a less.
func fewer(c *watch.Catalog, n int) *watch.Catalog {
	s := *c.Service("a")
	s.Instances = s.Instances[n:]
	return c.Update([]*watch.Service{&s}, nil)
}

func count(c *watch.Catalog) int {
	n := 0
	for s := range c.Services() {
		n += len(s.Instances)
	}
	return n
}

// The table of handover.go, a line each.
func TestWhatANewSourceLacksIsJudgedByThePredecessorAndTheSidecars(t *testing.T) {
	all := wide(4, "a", "b", "c", "d", "e")
	unseen := func(string, *watch.Instance) watch.Presence { return watch.Unseen }
	is := func(p watch.Presence) func(string, *watch.Instance) watch.Presence {
		return func(string, *watch.Instance) watch.Presence { return p }
	}
	start := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		name    string
		given   *watch.Catalog
		sidecar func(string, *watch.Instance) watch.Presence
		after   time.Duration
		want    int
	}{
		{"the same", all, unseen, 0, 20},
		{"all is gone", watch.NewCatalog(), unseen, 0, 20},
		{"all is gone, and nobody says a word for hours", watch.NewCatalog(), unseen, 23 * time.Hour, 20},
		{"all is gone, for longer than a kept catalog may be old", watch.NewCatalog(), unseen, 25 * time.Hour, 0},
		{"all is gone, sidecars are connected", watch.NewCatalog(), is(watch.Connected), 25 * time.Hour, 20},
		{"all is gone, sidecars have left", watch.NewCatalog(), is(watch.Left), 0, 0},
		{"one of a service", fewer(all, 1), unseen, 0, 19},
		{"one of a service, its sidecar is connected", fewer(all, 1), is(watch.Connected), time.Hour, 20},
		{"two of the four of a service", fewer(all, 2), unseen, 0, 20},
		{"two of the four of a service, no sidecar has come", fewer(all, 2), unseen, reconnectFor, 18},
		{"a whole service", all.Update(nil, []string{"a"}), unseen, 0, 20},
		{"a whole service, no sidecar has come", all.Update(nil, []string{"a"}), unseen, reconnectFor, 16},
		{"a Consul that is being filled", wide(4, "a", "b", "c"), unseen, time.Hour, 20},
		{"a Consul that is nearly filled", wide(4, "a", "b", "c", "d"), unseen, time.Hour, 16},
		{"others are there", wide(4, "f"), unseen, 0, 20 + 4},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHandover(slog.New(slog.DiscardHandler), start, start.Add(24*time.Hour))
			h.before = all
			got := h.settle(c.given, c.sidecar, func(string) bool { return false }, start.Add(c.after))
			if n := count(got); n != c.want {
				t.Errorf("%d instances, want %d", n, c.want)
			}
			if kept := count(got) > count(c.given); kept != (got != c.given) || kept != strings.Contains(h.said, "controlplane accept --revision ") {
				t.Errorf("%v, said %q", kept, h.said)
			}
		})
	}
}

// That a sidecar has left is known for a minute, and true for longer.
func TestWhatHasLeftIsNotKeptAgain(t *testing.T) {
	h := newHandover(slog.New(slog.DiscardHandler), time.Now(), time.Now().Add(time.Hour))
	h.before = wide(4, "a")
	first := h.before.Service("a").Instances[0]
	is := watch.Connected
	sidecar := func(_ string, i *watch.Instance) watch.Presence {
		if i == first {
			return is
		}
		return watch.Unseen
	}
	never := func(string) bool { return false }
	for _, step := range []struct {
		is   watch.Presence
		want int
	}{{watch.Connected, 4}, {watch.Left, 3}, {watch.Unseen, 3}, {watch.Connected, 4}} {
		is = step.is
		if n := count(h.settle(watch.NewCatalog(), sidecar, never, time.Now())); n != step.want {
			t.Errorf("%d instances, want %d", n, step.want)
		}
	}
}

// That a source lacks a service which it could not read yet says nothing.
func TestWhatASourceCouldNotReadIsKept(t *testing.T) {
	start := time.Now()
	h := newHandover(slog.New(slog.DiscardHandler), start, start.Add(time.Hour))
	h.before = wide(2, "a", "b", "c", "d", "e")
	unread := true
	h.unread = func(service, _ string) bool { return unread && service == "a" }
	unseen := func(string, *watch.Instance) watch.Presence { return watch.Unseen }
	never := func(string) bool { return false }
	given := h.before.Update(nil, []string{"a"})
	if n := count(h.settle(given, unseen, never, start.Add(time.Hour))); n != 10 {
		t.Errorf("%d instances", n)
	}
	unread = false // and it has none
	if n := count(h.settle(given, unseen, never, start.Add(time.Hour))); n != 8 {
		t.Errorf("%d instances when it has been read", n)
	}
}

// What a source has, and the mesh file leaves out, has other tags or another health than
// before: it is not kept as it was, whatever its sidecar says, nor when it goes then.
func TestWhatASourceHasAndIsLeftOutIsNotKept(t *testing.T) {
	start := time.Now()
	h := newHandover(slog.New(slog.DiscardHandler), start, start.Add(time.Hour))
	h.before = wide(4, "a", "b")
	sick := h.before.Service("a").Instances[0]
	leftOut := true
	h.unselected = func(service, _ string, at watch.Place) bool {
		return leftOut && service == "a" && at == sick.Dialed()
	}
	connected := func(string, *watch.Instance) watch.Presence { return watch.Connected }
	never := func(string) bool { return false }
	given := fewer(h.before, 1)
	if got := h.settle(given, connected, never, start); got != given {
		t.Error("what is not passing any more is kept as it was")
	}
	leftOut = false // it is deregistered
	if got := h.settle(given, connected, never, start); got != given {
		t.Error("it is kept because it went after it was left out")
	}
	if got := h.settle(h.before, connected, never, start); got != h.before {
		t.Error("it is not there though it is back")
	}
	if n := count(h.settle(given, connected, never, start)); n != 8 {
		t.Errorf("%d instances: back, and gone again, it is not missed", n)
	}
}

// The same of a datacenter that could not be read yet. What the file does not follow any
// more, somebody has taken out; and either says nothing of how much is missing elsewhere.
func TestWhatAnotherDatacenterHasIsJudgedByItself(t *testing.T) {
	start := time.Now()
	h := newHandover(slog.New(slog.DiscardHandler), start, start.Add(time.Hour))
	h.before = wide(4, "a", "b")
	for s := range h.before.Services() {
		for n, i := range s.Instances {
			i.Datacenter = []string{"dc1", "dc1", "dc2", "dc3"}[n]
		}
	}
	unread := "dc2"
	h.unread = func(_, datacenter string) bool { return datacenter == unread }
	h.follows = func(datacenter string) bool { return datacenter != "dc3" }
	unseen := func(string, *watch.Instance) watch.Presence { return watch.Unseen }
	never := func(string) bool { return false }
	own := func(n int) *watch.Catalog { // so many of a, and all of b
		c := watch.NewCatalog()
		for s := range h.before.Services() {
			of := &watch.Service{Name: s.Name, Instances: s.Instances[:2]}
			if s.Name == "a" {
				of.Instances = s.Instances[:n]
			}
			c = c.Update([]*watch.Service{of}, nil)
		}
		return c
	}
	if n := count(h.settle(own(2), unseen, never, start.Add(time.Minute))); n != 6 {
		t.Errorf("%d instances, and not those of dc1 and dc2", n)
	}
	if n := count(h.settle(own(1), unseen, never, start.Add(time.Minute))); n != 5 {
		t.Errorf("%d instances: one that went in dc1 is kept because of dc2", n)
	}
	unread = "" // and it has none
	if n := count(h.settle(own(2), unseen, never, start.Add(2*time.Hour))); n != 4 {
		t.Errorf("%d instances when dc2 has been read", n)
	}
}

// What is kept is named, and an operator's word on exactly that takes it out.
func TestAnOperatorSaysThatWhatIsKeptIsMeant(t *testing.T) {
	h := newHandover(slog.New(slog.DiscardHandler), time.Now(), time.Now().Add(time.Hour))
	h.before = wide(4, "a", "b")
	unseen := func(string, *watch.Instance) watch.Presence { return watch.Unseen }
	word := ""
	meant := func(revision string) bool { return revision == word }
	given := wide(4, "a")
	if n := count(h.settle(given, unseen, meant, time.Now())); n != 8 {
		t.Fatalf("%d instances", n)
	}
	_, word, _ = strings.Cut(h.said, "--revision ")
	word = strings.Trim(word, "`")
	if more := wide(3, "a"); count(h.settle(more, unseen, meant, time.Now())) != 8 {
		t.Error("the word was on something else")
	}
	if n := count(h.settle(given, unseen, meant, time.Now())); n != 4 {
		t.Errorf("%d instances after the word", n)
	}
}

// An edit of select that is taken back has everything back, also while the catalog of
// the disk is served, or what a source that took over lacks is kept.
func TestAnEditOfSelectIsTakenBack(t *testing.T) {
	dir := t.TempDir()
	store := memory.New(dir, "datapunk")
	t.Run("kept", func(t *testing.T) {
		run(t, func(ctx context.Context) error { store.Run(ctx); return nil })
		store.Keep(wide(2, "a", "b"), time.Now())
	})
	c := &catalogs{t: t, dir: dir}
	c.Catalogs = NewCatalogs(slog.New(slog.DiscardHandler), "", NewRevisions("").Meant, func(cat *watch.Catalog) {
		c.mu.Lock()
		c.got = append(c.got, cat)
		c.mu.Unlock()
	})
	c.lookupEnv = func(string) (string, bool) { return "", false }
	c.Remember(memory.New(dir, "datapunk"), time.Hour)
	selecting := func(what string) {
		c.follow(mesh(t, "mesh: {name: datapunk, discovery: {consul: {host: 127.0.0.1, port: 1"+what+"}}}"))
	}
	selecting("")
	c.Catalogs.mu.Lock()
	c.recall(time.Now())
	c.Catalogs.mu.Unlock()
	c.becomes("a", "b")
	selecting(`, select: {exclude: ["b"]}`)
	c.becomes("a")
	selecting("")
	c.becomes("a", "b")

	selecting(`, select: {exclude: ["b"]}`)
	c.take(c.next, watch.NewCatalog()) // a Consul that is empty
	c.becomes("a")
	selecting("")
	c.becomes("a", "b")
}

// A control plane that starts while its source says nothing serves what the disk has,
// and says how old that is.
func TestAStartWithoutItsSourceServesTheDisk(t *testing.T) {
	dir := t.TempDir()
	begin := func(maxAge time.Duration) *catalogs {
		c := &catalogs{t: t, dir: dir}
		c.Catalogs = NewCatalogs(slog.New(slog.DiscardHandler), "", NewRevisions("").Meant, func(cat *watch.Catalog) {
			c.mu.Lock()
			c.got = append(c.got, cat)
			c.mu.Unlock()
		})
		c.Remember(memory.New(dir, "datapunk"), maxAge)
		return c
	}
	t.Run("first", func(t *testing.T) {
		c := begin(time.Hour)
		c.t = t
		c.write("catalog.yaml.in", "a", "b")
		run(t, c.Run)
		c.follow(c.inFile("catalog.yaml.in"))
		c.becomes("a", "b")
	}) // it ends, and has kept what was in force
	if err := os.Remove(filepath.Join(dir, "catalog.yaml.in")); err != nil {
		t.Fatal(err)
	}
	t.Run("without", func(t *testing.T) {
		c := begin(time.Hour)
		c.t = t
		run(t, c.Run)
		c.follow(c.inFile("catalog.yaml.in"))
		c.becomes("a", "b")
		if s := c.Status(); !s.Ready || !strings.Contains(fmt.Sprint(s.Waiting), "the catalog of the disk is served") || c.TooOld() != "" || c.Recalled() <= 0 {
			t.Errorf("status %+v, %q", s, c.TooOld())
		}
		c.write("catalog.yaml.in", "c")
		c.becomes("c") // and gives way to its source
		if c.Recalled() != 0 {
			t.Error("the disk's is still said to be served")
		}
	})
	t.Run("too old", func(t *testing.T) {
		if err := os.Remove(filepath.Join(dir, "catalog.yaml.in")); err != nil {
			t.Fatal(err)
		}
		c := begin(time.Nanosecond)
		c.t = t
		run(t, c.Run)
		c.follow(c.inFile("catalog.yaml.in"))
		c.becomes("c") // better than nothing
		if !strings.Contains(c.TooOld(), "--max-catalog-age") {
			t.Errorf("too old: %q", c.TooOld())
		}
	})
}
