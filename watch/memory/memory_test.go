package memory

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"datapunk.dev/controlplane/watch"
	"datapunk.dev/controlplane/watch/file"
)

func catalog() *watch.Catalog {
	lake := &watch.Service{Name: "lake"}
	lake.SetInstances([]*watch.Instance{
		{
			ID: "l1", Address: netip.MustParseAddr("10.0.0.1"), Port: 8080, MeshPort: 15008, Weight: 3, Health: watch.Warning, Zone: "a",
			Tags: []string{"a: b", "blue"}, Meta: map[string]string{"mesh_port": "15008", "note": "a \"word\", a\ttab, ü"},
		},
		{ID: "l1", Address: netip.MustParseAddr("2001:db8::1"), Port: 8080, Weight: 0, Health: watch.Maintenance, Meta: map[string]string{}}, // one id on two nodes
		{ID: "l3", Host: "lake.example", Port: 8080, Weight: 1, Health: watch.Critical, Meta: map[string]string{}},
	})
	return watch.NewCatalog().Update([]*watch.Service{lake, {Name: "empty"}, {Name: "no: name"}}, nil)
}

// What is kept is what was in force, and a file catalog that people can read, and
// even serve.
func TestACatalogComesBackAsItWas(t *testing.T) {
	m := New(t.TempDir(), "shop")
	if kept, err := m.Load(); kept != nil || err != nil {
		t.Fatalf("nothing is kept, and it loads %v, %v", kept, err)
	}
	want := catalog()
	known := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	keep(t, m, want, known)
	kept, err := m.Load()
	if err != nil {
		t.Fatal(err)
	}
	if !kept.Known.Equal(known) || kept.Catalog.Len() != want.Len() {
		t.Errorf("known at %s, %d services", kept.Known, kept.Catalog.Len())
	}
	for s := range want.Services() {
		got := kept.Catalog.Service(s.Name)
		if got == nil || len(got.Instances) != len(s.Instances) {
			t.Fatalf("%s is %+v", s.Name, got)
		}
		for n, i := range s.Instances {
			is := *got.Instances[n]
			is.ID = strings.TrimSuffix(is.ID, "#2") // the second of one id
			if !is.Equal(i) {
				t.Errorf("%s has\n%+v, want\n%+v", s.Name, &is, i)
			}
		}
	}
	data, err := os.ReadFile(m.Path())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := file.Parse("catalog.yaml", data); err != nil {
		t.Errorf("it is no file catalog: %v", err)
	}
	if info, err := os.Stat(m.Path()); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
}

// keep has a memory write a catalog, as at the end of a process.
func keep(t *testing.T, m *Memory, c *watch.Catalog, known time.Time) {
	t.Helper()
	m.Keep(c, known)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	m.Run(ended)
	if _, err := m.Failures(); err != nil {
		t.Fatal(err)
	}
}

func TestWhatCannotBeBelievedIsSetAside(t *testing.T) {
	good := New(t.TempDir(), "shop")
	keep(t, good, catalog(), time.Now())
	data, err := os.ReadFile(good.Path())
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.LastIndexByte(data[:len(data)-1], '\n')
	for _, c := range []struct {
		name, mesh string
		data       []byte
		want       string
	}{
		{"truncated", "shop", data[:at+1], "checksum"},
		{"truncated in the first line", "shop", data[:40], "first line"},
		{"empty", "shop", nil, "first line"},
		{"changed", "shop", bytes.Replace(data, []byte("10.0.0.1"), []byte("10.0.0.9"), 1), "checksum"},
		{"another file", "shop", []byte("services: {}\n"), "not the control plane's"},
		{"newer", "shop", bytes.Replace(data, []byte(`"format":1`), []byte(`"format":2`), 1), "its format is 2"},
		{"another mesh's", "store", data, `of the mesh "shop"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := New(t.TempDir(), c.mesh)
			if err := os.WriteFile(m.Path(), c.data, 0o600); err != nil {
				t.Fatal(err)
			}
			kept, err := m.Load()
			if kept != nil || err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("%v, %v; want %q", kept, err, c.want)
			}
			left, _ := filepath.Glob(m.Path() + ".corrupt-*")
			if len(left) != 1 || !strings.Contains(err.Error(), left[0]) {
				t.Errorf("%q lies there, and the error is %v", left, err)
			}
			if kept, err := m.Load(); kept != nil || err != nil {
				t.Errorf("the next start has %v, %v", kept, err)
			}
		})
	}
}

// However often a catalog changes, a disk is written to once in ten seconds, and
// once more at the end. A full one is tried again.
func TestADiskIsWrittenToNoMoreThanOnceInTenSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := New(t.TempDir(), "shop")
		var count atomic.Int64
		var full atomic.Bool
		m.keeper.WriteWith(func(string, []byte) error {
			count.Add(1)
			if full.Load() {
				return errors.New("no space left on device")
			}
			return nil
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); m.Run(ctx) }()
		c := catalog()
		for range 95 {
			c = c.Update(nil, []string{"empty"}).Update([]*watch.Service{{Name: "empty"}}, nil)
			m.Keep(c, time.Now())
			time.Sleep(time.Second)
		}
		if n := count.Load(); n < 9 || n > 11 {
			t.Errorf("%d writes in 95 seconds", n)
		}
		time.Sleep(time.Minute)
		before := count.Load()
		m.Keep(c, time.Now())
		time.Sleep(time.Minute)
		if count.Load() != before {
			t.Error("what has not changed is written again")
		}
		m.Keep(c, time.Now().Add(confirm))
		time.Sleep(time.Minute)
		if n := count.Load() - before; n != 1 {
			t.Errorf("%d writes for the sake of the time", n)
		}
		full.Store(true)
		m.Keep(catalog(), time.Now())
		time.Sleep(time.Minute)
		if n, err := m.Failures(); err == nil || n < 5 || n > 7 {
			t.Errorf("%v, %d times in a minute", err, n)
		}
		full.Store(false)
		time.Sleep(11 * time.Second)
		if _, err := m.Failures(); err != nil {
			t.Errorf("it is still said that %v", err)
		}
		before = count.Load()
		cancel()
		<-done
		if count.Load() != before+1 {
			t.Error("nothing is written at the end")
		}
	})
}
