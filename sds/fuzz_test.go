package sds

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// Whatever version of a certificate a proxy says that it has: one that is adopted
// names our root, and is renewed within the rotation, so that a proxy cannot put off
// its renewal nor have each reconnect cost an issue.
func FuzzAdopt(f *testing.F) {
	ca, _, _ := open(f)
	m, err := NewManager(ca, Options{Rotation: day, TTL: 2 * day})
	if err != nil {
		f.Fatal(err)
	}
	ahead := wallClock().Add(time.Hour).Unix()
	for _, v := range []string{
		"", "a.b.c", fmt.Sprintf("%s.%d.%s", ca.roots.Load().first.id, ahead, strings.Repeat("40", 20)),
		fmt.Sprintf("%s.%d.%s", ca.roots.Load().first.id, uint64(1)<<63-1, strings.Repeat("00", 20)), fmt.Sprintf("%s.-1.%s", ca.roots.Load().first.id, strings.Repeat("ff", 20)),
	} {
		f.Add(v, true)
		f.Add(strings.ReplaceAll(v, ca.roots.Load().first.id, "R"), false)
	}
	f.Fuzz(func(t *testing.T, version string, ours bool) {
		if ours { // the root is another one in each process
			version = strings.Replace(version, "R", ca.roots.Load().first.id, 1)
		}
		l, err := m.Lease("web", func() {})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Release()
		now := wallClock()
		if !l.Adopt(version) {
			return
		}
		info := l.Info()
		if !strings.HasPrefix(version, ca.roots.Load().first.id+".") || info.RenewAt.Before(now) || info.RenewAt.Sub(now) > day {
			t.Errorf("%q is adopted: %+v", version, info)
		}
	})
}
