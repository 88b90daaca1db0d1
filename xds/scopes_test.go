package xds

import (
	"fmt"
	"maps"
	"testing"
	"testing/synctest"

	"pgregory.net/rapid"

	"datapunk.dev/controlplane/resource"
)

// An edit may move services from one scope to another, and change what is in
// them, in one publication: each proxy has what its scope has then, whichever was
// there first, and nothing is left of a scope that nobody is in.
func TestProfilesMoveBetweenScopes(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var failure any
		synctest.Test(t, func(t *testing.T) {
			s := testServer()
			names := []string{"A", "B", "C"}
			scopes := make(map[string]*world)
			for _, name := range names {
				scopes[name] = newWorld(s, cluster("c", name+"0"))
				scopes[name].scope = name
			}
			in := map[string]string{"x": "A", "y": "B", "z": "A"}
			clients := make(map[string]deltaClient)
			has := make(map[string]string)
			publishAll := func() {
				var worlds []*world
				for service, scope := range in {
					worlds = append(worlds, scopes[scope].beside(resource.Profile{Service: service}))
				}
				publish(s, worlds...)
			}
			defer func() {
				failure = recover()
				for _, c := range clients {
					c.close()
				}
			}()
			publishAll()
			for step := range rapid.IntRange(1, 12).Draw(rt, "steps") {
				for service := range in {
					switch {
					case !rapid.Bool().Draw(rt, "moves"):
					case clients[service].client == nil:
						c := openDelta(t, s)
						c.node.Id, c.node.Cluster = service+"-1", service
						c.subscribe(cds)
						clients[service] = c
					default:
						in[service] = rapid.SampledFrom(names).Draw(rt, "scope")
					}
				}
				if rapid.Bool().Draw(rt, "changes") {
					name := rapid.SampledFrom(names).Draw(rt, "of")
					scopes[name].put(cluster("c", fmt.Sprint(name, step+1)))
				}
				publishAll()
				for service, c := range clients {
					for synctest.Wait(); len(c.out) > 0; synctest.Wait() {
						m := c.next()
						for _, r := range m.Resources {
							has[service] = r.Version
						}
						c.ack(m)
					}
					if want := scopes[in[service]].get(cds, "c").Version; has[service] != want {
						rt.Fatalf("step %d: %s has %s, want %s of scope %s", step, service, has[service], want, in[service])
					}
				}
			}
			for _, c := range clients {
				c.close()
			}
			clients = nil
			synctest.Wait()
			if n := len(s.scopes) + len(s.slots) + len(s.served.plain); n > 0 {
				rt.Fatalf("left: %v, %v, %d sets", maps.Keys(s.scopes), maps.Keys(s.slots), len(s.served.plain))
			}
		})
		if failure != nil {
			panic(failure)
		}
	})
}
