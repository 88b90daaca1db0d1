package xds

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"datapunk.dev/controlplane/resource"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
)

// Any history of changes, subscriptions, acknowledgements and rejections
// leaves every client with what a fresh one gets, but for what it rejects.
func TestEveryHistoryEndsInTheSameState(t *testing.T) {
	// Rapid keeps the real time, so each history has a bubble of its own; a
	// failure leaves the bubble as a value.
	rapid.Check(t, func(rt *rapid.T) {
		var failure any
		quorum := rapid.IntRange(1, 3).Draw(rt, "quorum") // 3 is never reached
		// What a resource of the scope needs is in the scope.
		own := rapid.SampledFrom([][]resource.Type{{lds}, {lds, rds}, {}, modelTypes}).Draw(rt, "own")
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(testServer(func(o *Options) { o.Quorum = quorum }))
			w.owns = func(t resource.Type, _ string) bool { return slices.Contains(own, t) }
			found := watchStates(w.server)
			w.publish()
			models := []*model{newModel(t, w, delta, "d"), newModel(t, w, sotw, "s")}
			defer func() {
				failure = recover()
				for _, m := range models {
					m.client.close()
				}
			}()
			history(rt, w, models, found)
		})
		if failure != nil {
			panic(failure)
		}
	})
}

func history(rt *rapid.T, w *world, models []*model, found *illegal) {
	client := func(rt *rapid.T) *model { return rapid.SampledFrom(models).Draw(rt, "client") }
	rt.Repeat(map[string]func(*rapid.T){
		"change": func(rt *rapid.T) {
			for range rapid.IntRange(1, 4).Draw(rt, "changes") {
				w.change(rt)
			}
			w.publish()
		},
		"subscribe": func(rt *rapid.T) { client(rt).subscribe(rt) },
		"answer":    func(rt *rapid.T) { client(rt).answer(1) },
		"reconnect": func(rt *rapid.T) { client(rt).reconnect() },
		"":          func(rt *rapid.T) { found.check(rt) },
		"wait": func(rt *rapid.T) {
			time.Sleep(time.Duration(rapid.IntRange(1, 1000).Draw(rt, "ms")) * time.Millisecond)
			synctest.Wait()
		},
	})
	for _, m := range models {
		for range 50 { // until nothing moves, timeouts included
			m.answer(1000)
			time.Sleep(time.Minute)
		}
		found.check(rt)
		m.check(rt, w)
	}
}

// change changes one resource. One whose version is a multiple of 5 is bad.
func (w *world) change(rt *rapid.T) {
	typ := rapid.SampledFrom([]resource.Type{cds, eds, lds, rds}).Draw(rt, "type")
	name := rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(rt, "name")
	if rapid.IntRange(0, 3).Draw(rt, "remove") == 0 {
		w.remove(typ, name)
		return
	}
	version := fmt.Sprint(rapid.IntRange(1, 20).Draw(rt, "version"))
	switch typ {
	case rds:
		w.put(route(name, version, rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(rt, "cluster")))
	default:
		w.put(res(typ, name, version))
	}
}

func bad(version string) bool {
	return len(version) > 0 && (version[len(version)-1] == '5' || version[len(version)-1] == '0')
}

// model is a client that keeps what it accepts, as Envoy would: a response
// with a bad resource is rejected whole.
type model struct {
	protocol protocol
	world    *world
	client   *client
	t        *testing.T
	id       string
	names    map[resource.Type][]string
	has      map[resource.Type]map[string]string // name to version
	accepted map[resource.Type]string            // version_info
	nonce    map[resource.Type]string
	acked    map[resource.Type]bool // it has accepted something on this stream
}

func newModel(t *testing.T, w *world, p protocol, id string) *model {
	m := &model{protocol: p, world: w, t: t, id: id, names: map[resource.Type][]string{eds: {"a"}, rds: {"a"}}}
	m.has = map[resource.Type]map[string]string{cds: {}, eds: {}, lds: {}, rds: {}}
	m.accepted = map[resource.Type]string{}
	m.connect()
	return m
}

var modelTypes = []resource.Type{cds, eds, lds, rds}

func (m *model) connect() {
	m.client = open(m.t, m.world.server, m.protocol, "")
	m.client.node.Id = m.id
	m.nonce, m.acked = map[resource.Type]string{}, map[resource.Type]bool{}
	for _, typ := range modelTypes {
		if m.protocol == delta {
			m.client.send(&discovery.DeltaDiscoveryRequest{
				Node: m.client.takeNode(), TypeUrl: typ.URL(), ResourceNamesSubscribe: m.names[typ], InitialResourceVersions: m.has[typ],
			})
		} else {
			m.client.send(&discovery.DiscoveryRequest{
				Node: m.client.takeNode(), TypeUrl: typ.URL(), ResourceNames: m.names[typ], VersionInfo: m.accepted[typ],
			})
		}
	}
}

func (m *model) reconnect() {
	m.client.close()
	m.connect()
}

// subscribe changes the names of assignments or routes; there is always one.
func (m *model) subscribe(rt *rapid.T) {
	typ := rapid.SampledFrom([]resource.Type{eds, rds}).Draw(rt, "type")
	names := rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"a", "b", "c", "d"}), 1, 4, rapid.ID).Draw(rt, "names")
	var add, drop []string
	for _, n := range names {
		if !slices.Contains(m.names[typ], n) {
			add = append(add, n)
		}
	}
	for _, n := range m.names[typ] {
		if !slices.Contains(names, n) {
			drop = append(drop, n)
			delete(m.has[typ], n)
		}
	}
	m.names[typ] = names
	if m.protocol == delta {
		m.client.send(&discovery.DeltaDiscoveryRequest{TypeUrl: typ.URL(), ResourceNamesSubscribe: add, ResourceNamesUnsubscribe: drop})
	} else {
		m.client.send(&discovery.DiscoveryRequest{
			TypeUrl: typ.URL(), ResourceNames: names, VersionInfo: m.accepted[typ], ResponseNonce: m.nonce[typ],
		})
	}
}

// answer takes in up to n responses and answers them.
func (m *model) answer(n int) {
	for range n {
		synctest.Wait()
		if len(m.client.out) == 0 {
			return
		}
		if b := <-m.client.out; m.protocol == delta {
			m.answerDelta(b)
		} else {
			m.answerSotw(b)
		}
	}
}

func (m *model) answerDelta(b []byte) {
	r := &discovery.DeltaDiscoveryResponse{}
	if err := proto.Unmarshal(b, r); err != nil {
		m.t.Fatal(err)
	}
	typ, _ := resource.TypeOf(r.TypeUrl)
	c := deltaClient{m.client}
	for _, res := range r.Resources {
		if bad(res.Version) {
			c.nack(r, "refused")
			return
		}
	}
	for _, res := range r.Resources {
		m.take(typ, res.Name, res.Version)
	}
	for _, name := range r.RemovedResources {
		delete(m.has[typ], name)
	}
	c.ack(r)
}

func (m *model) take(typ resource.Type, name, version string) {
	if typ == cds || typ == lds || slices.Contains(m.names[typ], name) {
		m.has[typ][name] = version
	}
}

func (m *model) answerSotw(b []byte) {
	r := &discovery.DiscoveryResponse{}
	if err := proto.Unmarshal(b, r); err != nil {
		m.t.Fatal(err)
	}
	typ, _ := resource.TypeOf(r.TypeUrl)
	m.nonce[typ] = r.Nonce
	c := sotwClient{m.client, m.names, m.accepted}
	got := map[string]string{}
	refused := map[string]bool{}
	for _, res := range r.Resources {
		name, version := m.world.identify(m.t, typ, res.Value)
		if refused[name] = bad(version); !refused[name] {
			got[name] = version
		}
	}
	if slices.Contains(slices.Collect(maps.Values(refused)), true) {
		if (typ == cds || typ == lds) && m.accepted[typ] != "" && !m.acked[typ] {
			// It came with what the server can not know, and is sent nothing
			// else now. It does as Envoy does, and takes what is good.
			for name, version := range m.has[typ] {
				if refused[name] {
					got[name] = version
				}
			}
			m.has[typ] = got
		}
		c.nack(r, "refused")
		return
	}
	m.acked[typ] = true
	if typ == cds || typ == lds {
		m.has[typ] = got
	} else {
		for name, version := range got {
			m.take(typ, name, version)
		}
	}
	c.ack(r)
}

// check compares what the client has with what it should have: all that it
// asked for and does not reject.
func (m *model) check(rt *rapid.T, w *world) {
	for _, typ := range modelTypes {
		want := map[string]string{}
		rejected := map[string]bool{}
		for _, r := range w.all(typ) {
			if names := m.names[typ]; names != nil && !slices.Contains(names, r.Name) {
				continue
			}
			if !bad(r.Version) {
				want[r.Name] = r.Version
				continue
			}
			if last := w.view().get(typ, r.Name); last != nil && last.Version != r.Version {
				want[r.Name] = last.Version // the last one that was acknowledged
				continue
			}
			rejected[r.Name] = true
		}
		got := maps.Clone(m.has[typ])
		for name := range rejected {
			delete(got, name) // whatever it had before
		}
		if m.protocol == sotw && typ == eds || typ == rds {
			for name := range got {
				if w.get(typ, name) == nil {
					delete(got, name) // SotW cannot remove it, and Envoy no routes
				}
			}
		}
		if typ == cds || typ == eds {
			// What a rejected route or listener may still need is kept.
			if m.rejects(w) {
				for name := range got {
					if w.get(typ, name) == nil {
						delete(got, name)
					}
				}
			}
		}
		if !maps.Equal(got, want) {
			rt.Fatalf("%s: %s: has %v, want %v; %+v", m.protocol, typ, got, want, w.server.Proxies())
		}
	}
}

// rejects reports whether the client holds on to something older than the
// world says.
func (m *model) rejects(w *world) bool {
	for _, typ := range modelTypes {
		for _, r := range w.all(typ) {
			if bad(r.Version) && (m.names[typ] == nil || slices.Contains(m.names[typ], r.Name)) {
				return true
			}
		}
	}
	return false
}
