package control

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"datapunk.dev/controlplane/replica"
	"datapunk.dev/controlplane/sds"
	"datapunk.dev/controlplane/sds/identity"
)

// A step that would cut off proxies of another replica says which replica that is.
func TestAStepOfTheRootWaitsForTheOtherReplicas(t *testing.T) {
	now := time.Now()
	first, next := identity.RootHash{1}, identity.RootHash{2}
	prepared := sds.Rotation{Phase: sds.Prepared, First: first, Next: next}
	activated := sds.Rotation{Phase: sds.Activated, First: first, Next: next, Until: now.Add(-time.Second)}
	followed := func(change func(*replica.Roots)) []replica.Member {
		r := &replica.Roots{Trusted: []string{first.String(), next.String()}, Signs: next.String(), Until: now.Add(-time.Minute)}
		if change != nil {
			change(r)
		}
		return []replica.Member{{Name: "one", Roots: r}}
	}
	for name, tt := range map[string]struct {
		err  error
		want string // empty: the step may be taken
	}{
		"all proxies trust the next root":       {mayActivate(prepared, true, followed(nil)), ""},
		"own proxies do not":                    {mayActivate(prepared, false, followed(nil)), "not every connected proxy"},
		"those of another replica do not":       {mayActivate(prepared, true, followed(func(r *replica.Roots) { r.Trusted = r.Trusted[:1] })), "replica one does not have the next root"},
		"a replica that does not know of roots": {mayActivate(prepared, true, []replica.Member{{Name: "old"}}), "replica old does not say"},

		"nothing of the first root is in use":                    {mayRetire(activated, now, nil, followed(nil)), ""},
		"own proxies hold certificates of it":                    {mayRetire(sds.Rotation{Phase: sds.Activated, Old: 3}, now, nil, nil), "3 proxies hold"},
		"some that are away may":                                 {mayRetire(sds.Rotation{Phase: sds.Activated, Until: now.Add(time.Hour)}, now, nil, nil), "may be in use until"},
		"Envoys pin it":                                          {mayRetire(activated, now, []string{"a", "b", "c", "d", "e", "f"}, nil), "6 Envoys accept no control plane of the next root, a, b, c, d, e and others"},
		"another replica signs with it":                          {mayRetire(activated, now, nil, followed(func(r *replica.Roots) { r.Signs = first.String() })), "replica one signs with the first root"},
		"proxies of another replica hold some":                   {mayRetire(activated, now, nil, followed(func(r *replica.Roots) { r.Old = 2 })), "replica one has 2 proxies"},
		"some of another replica may":                            {mayRetire(activated, now, nil, followed(func(r *replica.Roots) { r.Until = now.Add(time.Hour) })), "replica one may have proxies"},
		"Envoys of another replica pin it":                       {mayRetire(activated, now, nil, followed(func(r *replica.Roots) { r.Pinned = 1 })), "replica one has 1 Envoys"},
		"the first root signs again everywhere":                  {mayGoBack(activated, now, followed(nil)), ""},
		"proxies of another replica were given some of the next": {mayGoBack(prepared, now, followed(func(r *replica.Roots) { r.Signs, r.Until = first.String(), now.Add(time.Hour) })), "replica one may have proxies with certificates of the next root"},
		"another replica was started lately, and activate":       {mayActivate(prepared, true, followed(func(r *replica.Roots) { r.Returning = true })), "replica one was started lately"},
		"another replica was started lately, and retire":         {mayRetire(activated, now, nil, followed(func(r *replica.Roots) { r.Returning = true })), "replica one was started lately"},
		"another replica signs with the next":                    {mayGoBack(prepared, now, followed(nil)), "replica one signs with the next root"},
	} {
		t.Run(name, func(t *testing.T) {
			if tt.want == "" && tt.err != nil || tt.want != "" && (tt.err == nil || !strings.Contains(tt.err.Error(), tt.want)) {
				t.Errorf("%v, want %q", tt.err, tt.want)
			}
		})
	}
}

// The proxies trust a root when they have acknowledged the snapshot that has it, and
// not when it was made or handed on.
func TestARootIsTrustedWhenAllProxiesHaveAcknowledgedIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, _, err := sds.Open(t.TempDir(), "datapunk")
		if err != nil {
			t.Fatal(err)
		}
		svids, err := sds.NewManager(ca, sds.Options{Rotation: time.Hour, TTL: 2 * time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		var given []byte
		acked := make(chan struct{})
		said := 0
		r := newRootRotation(slog.New(slog.DiscardHandler), svids, func(bundle []byte) { given = slices.Clone(bundle) },
			func(context.Context) <-chan struct{} { return acked }, func() { said++ })
		go r.Run(t.Context())
		r.publishes(svids.Roots())
		synctest.Wait()
		first := svids.Rotation().First
		if r.allTrust(first) {
			t.Error("trusted before anybody has acknowledged it")
		}
		close(acked)
		synctest.Wait()
		if !r.allTrust(first) || said == 0 {
			t.Error("it was acknowledged, and is not trusted")
		}

		// Somebody prepares the next one, with a command or by copies.
		acked = make(chan struct{})
		if err := svids.Prepare(); err != nil {
			t.Fatal(err)
		}
		r.adopted()
		if roots := identity.HashRoots(given); len(roots) != 2 {
			t.Errorf("proxies are given %d roots", len(roots))
		}
		r.publishes(given)
		synctest.Wait()
		next := svids.Rotation().Next
		if r.allTrust(next) || !r.allTrust(first) {
			t.Error("the next root is trusted before it was acknowledged")
		}
		close(acked)
		synctest.Wait()
		if !r.allTrust(next) {
			t.Error("it was acknowledged, and is not trusted")
		}
	})
}

// Who was connected before a restart may not be back yet, and counts nevertheless.
func TestAfterAStartProxiesAreWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		for _, tt := range []struct {
			when string
			want bool
		}{{"with a root that it made itself", false}, {"with that of before", true}} {
			ca, _, err := sds.Open(dir, "datapunk")
			if err != nil {
				t.Fatal(err)
			}
			svids, err := sds.NewManager(ca, sds.Options{Rotation: time.Hour, TTL: 2 * time.Hour})
			if err != nil {
				t.Fatal(err)
			}
			r := newRootRotation(slog.New(slog.DiscardHandler), svids, func([]byte) {}, nil, func() {})
			if r.returning(time.Now()) != tt.want {
				t.Errorf("%s, before the first snapshot: %v", tt.when, !tt.want)
			}
			r.publishes(svids.Roots())
			if r.returning(time.Now().Add(reconnectFor-time.Second)) != tt.want {
				t.Errorf("%s, just before they are back: %v", tt.when, !tt.want)
			}
			if r.returning(time.Now().Add(reconnectFor)) {
				t.Errorf("%s, when they are back", tt.when)
			}
		}
	})
}
