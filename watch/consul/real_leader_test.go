//go:build component && slow

package consul_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"datapunk.dev/controlplane/consul"
	"datapunk.dev/controlplane/internal/consulagent"
	"datapunk.dev/controlplane/internal/tool"
	watchconsul "datapunk.dev/controlplane/watch/consul"
)

// TestRealLeaderOfThreeIsLost: of three servers the leader is killed, and later another
// one, so that there is none. Nothing is taken out, Consul is not stormed, and what
// changes is seen as soon as there is a leader.
func TestRealLeaderOfThreeIsLost(t *testing.T) {
	t.Parallel()
	servers := consulagent.ServersForTest(t)
	leads := func(alive ...*consulagent.Agent) (leader *consulagent.Agent) {
		t.Helper()
		err := tool.Until(t.Context(), "there is a leader", 30*time.Second, func() error {
			name, err := alive[0].API.Status().Leader()
			if err == nil && name == "" {
				err = errors.New("nobody leads")
			}
			if err != nil {
				return err
			}
			for _, a := range alive {
				self, err := a.API.Agent().Self()
				if err != nil {
					return err
				}
				if raft := self["Stats"]["raft"].(map[string]any); raft["state"] == "Leader" {
					leader = a
				}
			}
			if leader == nil {
				return fmt.Errorf("%s leads, and is none of %d", name, len(alive))
			}
			return nil
		})
		must(t, err)
		return leader
	}
	others := func(of []*consulagent.Agent, without *consulagent.Agent) (rest []*consulagent.Agent) {
		for _, a := range of {
			if a != without {
				rest = append(rest, a)
			}
		}
		return rest
	}
	leader := leads(servers...)
	rest := others(servers, leader)
	asked := rest[0] // a follower
	for n := range 3 {
		must(t, asked.Register(lake(n+1)))
	}
	o := observe(t, consul.Config{Address: asked.HTTP}, watchconsul.Config{}, watchconsul.Demand{MeshOnly: true})
	o.ready()
	o.within(soon, "three", func() bool { return o.instances("lake") == 3 })

	leader.Kill()
	began := time.Now()
	leads(rest...)
	t.Logf("measured: another of two servers leads after %.1f s", time.Since(began).Seconds())
	if o.instances("lake") != 3 {
		t.Errorf("lake has %d instances", o.instances("lake"))
	}
	must(t, asked.Register(lake(4)))
	took := o.within(30*time.Second, "a change under the new leader", func() bool { return o.instances("lake") == 4 })
	t.Logf("measured: a change under the new leader is seen after %.1f s", took.Seconds())

	before := strings.Count(o.logged(), "\n")
	others(rest, asked)[0].Kill() // and now there is no majority
	o.never(20*time.Second, "instances went", func() bool { return o.instances("lake") != 4 || !o.Status().Ready })
	t.Logf("measured: in 20 s without a leader %d lines of the log; waiting for %q", strings.Count(o.logged(), "\n")-before, o.Status().Waiting)

	began = time.Now()
	must(t, leader.Start(t.Context()))
	leads(asked, leader)
	must(t, asked.Register(lake(5)))
	o.within(time.Minute, "a change when there is a leader again", func() bool { return o.instances("lake") == 5 })
	o.within(time.Minute, "well", o.waiting(""))
	t.Logf("measured: well %.1f s after a server came back", time.Since(began).Seconds())
}
