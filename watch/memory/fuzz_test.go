package memory

import (
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"datapunk.dev/controlplane/watch"
)

// What is kept is read again, whatever Consul let people write into it: a catalog
// that could not be read would be lost just when it is needed.
func FuzzCatalogIsReadAgain(f *testing.F) {
	f.Add("lake", "lake-1", "10.0.0.1", "a", "blue", "version", "1", uint16(8080), uint32(1))
	f.Add("no: name", "#", "lake.example", "\u0085", "\x00", "<<", "*a", uint16(7), uint32(0))
	f.Add("\ufeff", "\xff", "2001:db8::1", "\u2028", "a\tb", "\u0081", "\ufffe", uint16(7), uint32(65535))
	f.Add("~", "null", "10.0.0.1", "!!binary", "---", "=", "15008", uint16(9), uint32(1))
	f.Add(strings.Repeat("long", 1000), "a", "10.0.0.1", "", "", "a", "b", uint16(8), uint32(1))
	f.Fuzz(func(t *testing.T, service, id, address, zone, tag, key, value string, port uint16, weight uint32) {
		for _, text := range []string{service, id, zone, tag, key, value} {
			if !utf8.ValidString(text) {
				return // neither JSON, in which Consul answers, nor a catalog file has such a text
			}
		}
		i := &watch.Instance{ID: id, Port: port, Weight: weight % 65536, Health: watch.Passing, Zone: zone, Tags: []string{tag}, Meta: map[string]string{key: value}}
		if key == watch.MetaMeshPort {
			return // a number beside it
		}
		if ip, err := netip.ParseAddr(address); err == nil && !ip.IsUnspecified() && ip.Zone() == "" {
			i.Address = ip
		} else if host, reason := watch.Hostname(address); reason == "" {
			i.Host = host
		} else {
			return
		}
		if service == "" || id == "" || port < 4 || service == "good" {
			return // nothing of which the watch makes an instance
		}
		good := &watch.Instance{ID: "g", Address: netip.MustParseAddr("10.0.0.9"), Port: 80, Weight: 1, Meta: map[string]string{}}
		s, other := &watch.Service{Name: service}, &watch.Service{Name: "good"}
		again, taken := *i, *i // one id on two nodes, and an id that looks like what is made of that
		again.Port, taken.Port, taken.ID = i.Port^1, i.Port^2, i.ID+"#1"
		s.SetInstances([]*watch.Instance{i, &again, &taken})
		other.SetInstances([]*watch.Instance{good})
		want := watch.NewCatalog().Update([]*watch.Service{s, other}, nil)

		m := New(t.TempDir(), "shop")
		body, err := encode(want)
		if err != nil {
			t.Fatal(err)
		}
		data, err := m.file.Seal(body, time.Unix(1<<30, 0))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(m.Path(), data, 0o600); err != nil {
			t.Fatal(err)
		}
		kept, err := m.Load()
		if err != nil {
			t.Fatalf("%v of\n%s", err, body)
		}
		if kept.Catalog.Service("good") == nil {
			t.Fatalf("another service is lost by\n%s", body)
		}
		got := kept.Catalog.Service(service)
		if got == nil || len(got.Instances) != len(s.Instances) {
			t.Fatalf("%q is %+v of\n%s", service, got, body)
		}
		for n, is := range got.Instances {
			is.ID = s.Instances[n].ID // one of two that are alike has another
			if !is.Equal(s.Instances[n]) {
				t.Errorf("%+v was %+v", is, s.Instances[n])
			}
		}
	})
}

// Whatever lies in the place of the file: it is what was sealed, or set aside.
func FuzzKeptFile(f *testing.F) {
	m := New(f.TempDir(), "shop")
	body, err := encode(catalog())
	if err != nil {
		f.Fatal(err)
	}
	data, err := m.file.Seal(body, time.Unix(1<<30, 0))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data, false)
	f.Add(body, true)
	f.Add([]byte("services: {a: [{id: a, address: 10.0.0.1, port: 1}]}"), true)
	f.Add(data[:len(data)/2], false)
	f.Add([]byte{}, true)
	f.Fuzz(func(t *testing.T, data []byte, seal bool) {
		m := New(t.TempDir(), "shop")
		if seal {
			var err error
			if data, err = m.file.Seal(data, time.Unix(1<<30, 0)); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(m.Path(), data, 0o600); err != nil {
			t.Fatal(err)
		}
		kept, err := m.Load()
		if (kept == nil) != (err != nil) {
			t.Fatalf("%+v, %v", kept, err)
		}
		if err != nil {
			if _, err := os.Stat(m.Path()); err == nil {
				t.Error("it would be read again at the next start")
			}
			return
		}
		for s := range kept.Catalog.Services() {
			for _, i := range s.Instances {
				if s.Name == "" || i.ID == "" || i.Port == 0 || !i.Address.IsValid() && i.Host == "" {
					t.Errorf("service %q has %+v", s.Name, i)
				}
			}
		}
	})
}
