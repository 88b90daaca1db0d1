//go:build component

package consul_test

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"datapunk.dev/controlplane/consul"
	"datapunk.dev/controlplane/internal/consulagent"
	"datapunk.dev/controlplane/watch"
	watchconsul "datapunk.dev/controlplane/watch/consul"
)

// observeDatacenters reads two datacenters by the agent of the first.
func observeDatacenters(t *testing.T, by *consulagent.Agent, cfg watchconsul.Config) *observer {
	t.Helper()
	demand := watchconsul.Demand{MeshOnly: true}
	return observeAll(t, func(log *slog.Logger, publish func(*watch.Catalog)) (source, error) {
		return watchconsul.NewDatacenters(log, []string{"dc1", "dc2"}, true, func(name string, publish func(*watch.Catalog)) (*watchconsul.Source, error) {
			cfg := cfg
			cfg.Datacenter = name
			return open(t, consul.Config{Address: by.HTTP, Datacenter: name, MaxConnections: 75}, cfg, demand, log, publish)
		}, publish)
	})
}

// places are the instances of a service, as id@datacenter.
func (o *observer) places(service string) string {
	s := o.service(service)
	if s == nil {
		return ""
	}
	var all []string
	for _, i := range s.Instances {
		all = append(all, i.ID+"@"+i.Datacenter)
	}
	return strings.Join(all, " ")
}

func (o *observer) datacenter(name string) watchconsul.DatacenterStats {
	all := o.Stats().Datacenters
	return all[slices.IndexFunc(all, func(d watchconsul.DatacenterStats) bool { return d.Name == name })]
}

// Two datacenters, joined over WAN, of which the other one is killed, comes back
// empty, and is frozen. Its instances stay, that is said, and the mesh's own goes on.
func TestRealDatacenterIsLost(t *testing.T) {
	t.Parallel()
	own := consulagent.ForTest(t, consulagent.Options{Datacenter: "dc1", Node: "one"})
	other := consulagent.ForTest(t, consulagent.Options{Datacenter: "dc2", Node: "two", WAN: own})
	other.WaitFederated(t, own)
	must(t, own.Register(lake(1)))
	for n := range 30 { // so that a new server's index is lower
		must(t, other.Register(lake(n+2)))
	}
	dome := consulagent.Instance{Service: "dome", ID: "dome-1", Address: "10.0.1.1", Port: 80, MeshPort: 15006}
	must(t, other.Register(dome))
	guard := watchconsul.Guard{Confirm: 500 * time.Millisecond, Restored: 12 * time.Second}
	o := observeDatacenters(t, own, watchconsul.Config{Guard: guard, Wait: 2 * time.Second})
	o.ready()
	o.within(soon, "all", func() bool { return o.instances("lake") == 31 && o.places("dome") == "dome-1@dc2" })
	if got := o.places("lake"); !strings.HasPrefix(got, "lake-1@dc1 lake-2@dc2 ") && !strings.Contains(got, "lake-31@dc2") {
		t.Errorf("lake is at %s", got)
	}
	must(t, other.SetHealth("lake-2", "critical"))
	o.within(soon, "a change over there", func() bool {
		return slices.ContainsFunc(o.service("lake").Instances, func(i *watch.Instance) bool { return i.ID == "lake-2" && i.Health == watch.Critical })
	})

	kept := func() bool { return o.instances("lake") < 31 || o.instances("dome") != 1 }
	other.Kill()
	took := o.within(20*time.Second, "its death is said", o.waiting("datacenter dc2: list of services: "))
	t.Logf("said %v after its death: %s", took.Round(time.Millisecond), o.Status().Waiting[0])
	must(t, own.Register(lake(99)))
	o.within(soon, "a change here", func() bool { return o.instances("lake") == 32 })
	o.never(5*time.Second, "what is lost was taken out, or is not said", func() bool {
		return kept() || len(o.Status().Waiting) == 0 || o.datacenter("dc2").Ready
	})
	if d := o.datacenter("dc1"); !d.Ready || time.Since(d.Fresh) > 12*time.Second {
		t.Errorf("the own one: %+v", d)
	}
	if age := time.Since(o.datacenter("dc2").Fresh); age < 4*time.Second {
		t.Errorf("what it says is said to be %s old", age)
	}

	must(t, other.Start(t.Context())) // in memory: it has lost everything
	o.within(60*time.Second, "it is read again, and not believed", func() bool {
		return strings.Contains(strings.Join(o.Status().Held, "\n"), "datacenter dc2: service ")
	})
	for n := range 30 {
		must(t, other.Register(lake(n+2)))
	}
	must(t, other.Register(dome))
	o.within(60*time.Second, "all is back, and nothing is held", func() bool {
		return o.instances("dome") == 1 && o.instances("lake") == 32 && len(o.Status().Waiting)+len(o.Status().Held) == 0
	})

	must(t, other.Pause())
	took = o.within(30*time.Second, "that it is frozen is said", func() bool {
		return strings.Contains(fmt.Sprint(o.Status().Waiting), "datacenter dc2: ")
	})
	t.Logf("said %v after it was frozen: %s", took.Round(time.Millisecond), o.Status().Waiting)
	must(t, own.Deregister("lake-99"))
	o.within(soon, "a change here", func() bool { return o.instances("lake") == 31 })
	must(t, other.Resume())
	o.within(60*time.Second, "well", o.waiting(""))
	o.never(2*time.Second, "its instances went", func() bool { return o.instances("lake") != 31 })
}

// A datacenter that is away when the control plane starts keeps the mesh's own waiting
// for a few seconds, and is there when it is.
func TestRealDatacenterIsAwayAtTheStart(t *testing.T) {
	t.Parallel()
	own := consulagent.ForTest(t, consulagent.Options{Datacenter: "dc1", Node: "one"})
	must(t, own.Register(lake(1)))
	o := observeDatacenters(t, own, watchconsul.Config{})
	took := o.within(20*time.Second, "ready", func() bool { return o.Status().Ready })
	if took < 4*time.Second || o.places("lake") != "lake-1@dc1" {
		t.Errorf("ready after %s, with lake at %s", took, o.places("lake"))
	}
	o.within(soon, "said", o.waiting("datacenter dc2: list of services: "))
	other := consulagent.ForTest(t, consulagent.Options{Datacenter: "dc2", Node: "two", WAN: own})
	must(t, other.Register(lake(2)))
	o.within(60*time.Second, "it is there", func() bool { return o.places("lake") == "lake-1@dc1 lake-2@dc2" })
	o.within(soon, "well", o.waiting(""))
}
