//go:build component

package register

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"datapunk.dev/controlplane/consul"
	"datapunk.dev/controlplane/internal/consulagent"
)

// ourNodes are how many instances of ours a server's catalog has, whoever leads.
func ourNodes(agent *consulagent.Agent) int {
	nodes, _, err := agent.API.Catalog().Nodes(&api.QueryOptions{AllowStale: true, NodeMeta: map[string]string{"managed-by": "controlplane/datapunk"}})
	if err != nil {
		return -1
	}
	return len(nodes) - 1 // the one of the sessions
}

// counted stands in front of a server and counts what it is asked.
func counted(t testing.TB, agent *consulagent.Agent) (address string, requests *atomic.Int64) {
	t.Helper()
	requests = new(atomic.Int64)
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: agent.HTTP})
	proxy.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(front.Close)
	return strings.TrimPrefix(front.URL, "http://"), requests
}

// TestRealServersFail: three servers, of which the leader is killed, two are frozen,
// and the one that a replica calls is cut off from the others. What lives stays in
// each catalog at every moment, as a watcher of Consul sees it, and what has died
// meanwhile goes afterwards.
func TestRealServersFail(t *testing.T) {
	servers := consulagent.ServersForTest(t)
	roles := func() (leader *consulagent.Agent, others []*consulagent.Agent) {
		until(t, "there is a leader", 30*time.Second, func() string {
			leader, others = nil, nil
			for _, s := range servers {
				if s.Leads() {
					leader = s
				} else {
					others = append(others, s)
				}
			}
			if leader == nil || len(others) != 2 {
				return "none"
			}
			return ""
		})
		return leader, others
	}
	leader, others := roles()
	near, far := others[0], others[1]
	address, requests := counted(t, near)

	const fleetSize = 50
	f := newFleet(t, fleetSize+10, 5)
	dead := make(map[netip.AddrPort]bool)
	var buried atomic.Bool
	times := Times{Interval: time.Second, After: 4 * time.Second}
	a := startReal(t, consul.Config{Address: address}, "a", times)
	a.dial = func(ctx context.Context, at netip.AddrPort) reach {
		if buried.Load() && dead[at] {
			return refused
		}
		return dialTCP(ctx, at)
	}
	for _, p := range f.proxies[:fleetSize] {
		a.Connected(p)
	}
	until(t, "all are held", 30*time.Second, a.held(fleetSize))
	seen := watchConsul(t, near.HTTP)
	sees := func(n int) {
		t.Helper()
		until(t, fmt.Sprintf("the watcher sees %d", n), 30*time.Second, func() string {
			if got := seen.count(); got != n {
				return fmt.Sprint(got)
			}
			return ""
		})
	}
	// All that were there when the fault began, whatever came since.
	sees(fleetSize)

	t.Run("the leader is killed", func(t *testing.T) {
		seen.guardFrom(fleetSize)
		leader.Kill()
		began := time.Now()
		// A write is refused now, or waits.
		changed := slices.Clone(f.proxies[:5])
		for i := range changed {
			changed[i].Version = "1.2.4"
			a.Connected(changed[i])
		}
		until(t, "another leads, and what changed meanwhile is written", 60*time.Second, func() string {
			entries, _, err := near.API.Health().Service("s-0", "", false, nil)
			if err != nil {
				return err.Error()
			}
			for _, e := range entries {
				if e.Service.ID == "px-0" && e.Service.Meta["version"] == "1.2.4" {
					return a.held(fleetSize)()
				}
			}
			return "not written"
		})
		t.Logf("written %s after the leader was killed", time.Since(began).Round(10*time.Millisecond))
		seen.clean()
		if err := leader.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		consulagent.WaitWhole(t, near)
	})

	t.Run("two servers are frozen", func(t *testing.T) {
		seen.guardFrom(fleetSize)
		for _, s := range []*consulagent.Agent{leader, far} {
			if err := s.Pause(); err != nil {
				t.Fatal(err)
			}
		}
		until(t, "the status says so", 60*time.Second, func() string {
			if len(a.Status().Trouble) == 0 {
				return "no trouble"
			}
			return ""
		})
		t.Logf("the status: %q", a.Status().Trouble)
		// Meanwhile some come, some go to nowhere, some die.
		for _, p := range f.proxies[fleetSize:] {
			a.Connected(p)
		}
		buried.Store(false)
		for _, p := range f.proxies[:3] {
			dead[p.at()] = true
		}
		buried.Store(true)
		for _, p := range f.proxies[:20] {
			a.Gone(p.Node)
		}
		before, window := requests.Load(), 10*time.Second
		time.Sleep(window)
		rate := float64(requests.Load()-before) / window.Seconds()
		t.Logf("%.1f requests a second without a leader", rate)
		if rate > 5 {
			t.Errorf("%.1f requests a second to a server without a leader", rate)
		}
		if n := ourNodes(near); n != fleetSize {
			t.Errorf("%d instances, want %d", n, fleetSize)
		}
		seen.clean()
		for _, s := range []*consulagent.Agent{leader, far} {
			if err := s.Resume(); err != nil {
				t.Fatal(err)
			}
		}
		// The dead go, those whose ports answer stay, and the new ones come.
		began := time.Now()
		until(t, "the dead have gone, and the new ones come", 90*time.Second, func() string {
			if n := ourNodes(near); n != fleetSize+10-3 {
				return fmt.Sprint(n)
			}
			return ""
		})
		t.Logf("put right %s after the servers went on", time.Since(began).Round(10*time.Millisecond))
		for _, p := range f.proxies[3:20] {
			a.Connected(p)
		}
		until(t, "all that live are held", 30*time.Second, a.held(fleetSize+10-3))
		consulagent.WaitWhole(t, near)
	})

	t.Run("the server that a replica calls is cut off", func(t *testing.T) {
		leader, _ = roles()
		if leader == near { // it may have come to lead: the others are to have a leader of their own
			far = servers[(slices.Index(servers, near)+1)%3]
		}
		const living = fleetSize + 10 - 3
		b := startReal(t, consul.Config{Address: far.HTTP}, "b", times)
		until(t, "b has a session", 30*time.Second, b.held(0))
		other := watchConsul(t, far.HTTP)
		until(t, "its watcher sees all", 30*time.Second, func() string {
			if n := other.count(); n != living {
				return fmt.Sprint(n)
			}
			return ""
		})
		other.guardFrom(living)
		if err := near.Pause(); err != nil {
			t.Fatal(err)
		}
		// Some come to the other replica, the rest stay where they are.
		moved := f.proxies[3:20]
		for _, p := range moved {
			a.Gone(p.Node)
			b.Connected(p)
		}
		until(t, "b holds those that came, and looks after the others", 90*time.Second, func() string {
			if s := b.Status(); s.States[Held] != len(moved) || s.States[Unclaimed] != living-len(moved) {
				return fmt.Sprintf("%v %q", s.States, s.Trouble)
			}
			return ""
		})
		if len(a.Status().Trouble) == 0 {
			t.Error("a replica that is cut off says nothing")
		}
		time.Sleep(5 * time.Second) // longer than an entry of a dead one stays
		if n := ourNodes(far); n != living {
			t.Errorf("%d instances, want %d", n, living)
		}
		if err := near.Resume(); err != nil {
			t.Fatal(err)
		}
		until(t, "each replica holds its own", 90*time.Second, func() string {
			x, y := a.Status(), b.Status()
			if x.States[Held] != living-len(moved) || y.States[Held] != len(moved) || len(x.Trouble)+len(y.Trouble) > 0 {
				return fmt.Sprintf("a %v %q, b %v %q", x.States, x.Trouble, y.States, y.Trouble)
			}
			return ""
		})
		other.clean()
	})
}
