package consul

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"datapunk.dev/controlplane/watch"
)

// mesh is what a test makes of a fake Consul: a few services, whose instances
// share nodes.
type mesh struct {
	fake     *fakeConsul
	services map[string][]entry
}

func (m *mesh) name(n int) string { return fmt.Sprintf("s%02d", n) }

// put tells the fake what a service is now.
func (m *mesh) put(names ...string) {
	all := make(map[string][]entry)
	for _, name := range names {
		all[name] = nil
		for _, e := range m.services[name] {
			e.Checks = slices.Clone(e.Checks) // the fake's own, as an answer is
			all[name] = append(all[name], e)
		}
	}
	m.fake.setAll(all)
}

// change is one thing that happens to a mesh.
type change struct {
	what            string
	service, number int
	status          string
	pause           time.Duration // afterwards
}

// The changes that checks show, and those that none does.
var (
	ofChecks = []string{
		"status", "status", "flap", "node", "node maintenance", "maintenance", "output", "join", "join failing", "leave",
		"extra check", "lag", "catch up", "away", "back", "refuse", "bounce",
	}
	ofAnything = append([]string{"port", "weight", "tags", "meta", "no checks", "vanish", "rename"}, ofChecks...)
)

func changes(whats []string) *rapid.Generator[[]change] {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) change {
		return change{
			what:    rapid.SampledFrom(whats).Draw(t, "what"),
			service: rapid.IntRange(0, 9).Draw(t, "service"),
			number:  rapid.IntRange(0, 7).Draw(t, "number"),
			status:  rapid.SampledFrom([]string{"passing", "warning", "critical", "odd"}).Draw(t, "status"),
			pause:   rapid.SampledFrom([]time.Duration{0, 0, 0, time.Millisecond, 4 * time.Millisecond, 100 * time.Millisecond, 3 * time.Second}).Draw(t, "pause"),
		}
	}), 1, 25)
}

// instance is the nth of a service; each node has instances of several services.
func (m *mesh) instance(service string, n int) entry {
	return at1(fmt.Sprintf("10.0.%d.%d", int(service[1]-'0')*10+int(service[2]-'0'), n+1), func(e *entry) {
		e.Node.Node = fmt.Sprintf("Node-%d", n%4)
		e.Service.ID = fmt.Sprintf("%s-%d", service, n)
		e.Checks = []check{{"serfHealth", "passing"}, {"service:" + e.Service.ID, "passing"}}
	})
}

// apply makes a change.
func (m *mesh) apply(c change) {
	name := m.name(c.service)
	entries := m.services[name]
	var e *entry
	if len(entries) > 0 {
		e = &entries[c.number%len(entries)]
	}
	switch c.what {
	case "status", "flap":
		if e == nil || len(e.Checks) == 0 {
			return
		}
		last := &e.Checks[len(e.Checks)-1]
		was := last.Status
		last.Status = c.status
		if m.put(name); c.what == "flap" {
			last.Status = was
			m.put(name)
		}
	case "node", "node maintenance":
		id := map[string]string{"node": "serfHealth", "node maintenance": "_node_maintenance"}[c.what]
		for _, entries := range m.services {
			for i := range entries {
				if entries[i].Node.Node != fmt.Sprintf("Node-%d", c.number%4) || len(entries[i].Checks) == 0 {
					continue
				}
				if entries[i].Checks = takenOut(entries[i].Checks, id); c.what == "node" {
					entries[i].Checks = with(entries[i].Checks, check{id, c.status})
				} else if c.number < 4 {
					entries[i].Checks = with(entries[i].Checks, check{id, "critical"})
				}
			}
		}
		m.put(slices.Sorted(maps.Keys(m.services))...)
	case "maintenance", "extra check":
		id := map[string]string{"maintenance": "_service_maintenance:", "extra check": "extra:"}[c.what]
		if e != nil && len(e.Checks) > 0 {
			id += e.Service.ID
			switch e.Checks = takenOut(e.Checks, id); {
			case c.status == "passing": // it is gone
			case c.what == "maintenance":
				e.Checks = with(e.Checks, check{id, "critical"})
			default:
				e.Checks = with(e.Checks, check{id, c.status})
			}
			m.put(name)
		}
	case "output": // the indexes move, and nothing else
		m.fake.lock(func() {
			m.fake.index++
			m.fake.indexes[name], m.fake.checks = m.fake.index, m.fake.index
			m.fake.wakePath(healthPath(name))
			m.fake.wakePath("/v1/health/state/any")
		})
	case "join", "join failing":
		joined := m.instance(name, c.number)
		if slices.ContainsFunc(entries, func(e entry) bool { return e.Service.ID == joined.Service.ID }) {
			return
		}
		for _, other := range m.services { // its node is as it is
			for _, o := range other {
				if o.Node.Node == joined.Node.Node && len(o.Checks) > 0 {
					for _, c := range o.Checks {
						if c.CheckID == "serfHealth" || c.CheckID == "_node_maintenance" {
							joined.Checks = with(joined.Checks, c)
						}
					}
				}
			}
		}
		if c.what == "join failing" {
			joined.Checks = with(joined.Checks, check{"service:" + joined.Service.ID, "critical"})
		}
		m.services[name] = append(entries, joined)
		m.put(name)
	case "leave":
		if len(entries) > 1 {
			m.services[name] = slices.Delete(entries, c.number%len(entries), c.number%len(entries)+1)
			m.put(name)
		}
	case "bounce": // gone and back before anybody asks
		m.fake.set(name)
		m.put(name)
	case "port", "weight", "tags", "meta", "no checks":
		if e == nil {
			return
		}
		switch c.what {
		case "port":
			e.Service.Port = 80 + c.number
		case "weight":
			e.Service.Weights.Passing = 1 + c.number
		case "tags":
			e.Service.Tags = []string{fmt.Sprint("t", c.number)}
		case "meta":
			e.Service.Meta = map[string]string{watch.MetaMeshPort: fmt.Sprint(15000 + c.number)}
		case "no checks":
			e.Checks = nil
		}
		m.put(name)
	case "vanish":
		m.services[name] = nil
		m.put(name)
	case "rename": // its ID stays, and its checks go on naming the old service
		if e != nil {
			to := m.name((c.service + 1 + c.number%8) % 10)
			m.services[to] = append(m.services[to], *e)
			m.services[name] = slices.Delete(entries, c.number%len(entries), c.number%len(entries)+1)
			m.put(name, to)
		}
	case "lag": // the server that is asked for services is behind, from now on
		m.fake.lock(m.fake.lag)
	case "catch up":
		m.fake.lock(m.fake.catchUp)
	case "away":
		m.fake.fail(func(*http.Request) (*http.Response, error) { return nil, errors.New("away") })
	case "refuse":
		m.fake.fail(func(req *http.Request) (*http.Response, error) {
			if req.URL.Path == healthPath(name) {
				return reply(500, "broken", nil), nil
			}
			return nil, nil
		})
	case "back":
		m.fake.fail(nil)
	}
}

// with puts a check in the place of the one that has its ID.
func with(checks []check, c check) []check {
	return append([]check{c}, takenOut(checks, c.CheckID)...)
}

func takenOut(checks []check, id string) []check {
	return slices.DeleteFunc(slices.Clone(checks), func(c check) bool { return c.CheckID == id })
}

// follow has a source with five watches of its own follow ten services through
// the changes, and says how its catalog then differs from what a whole read has.
func follow(t *testing.T, cfg Config, settle time.Duration, all []change) (difference string) {
	m := &mesh{fake: newFake(), services: make(map[string][]entry)}
	m.fake.connections = 16
	for i := range 10 {
		for n := range 4 {
			m.services[m.name(i)] = append(m.services[m.name(i)], m.instance(m.name(i), n))
		}
		m.put(m.name(i))
	}
	var last *watch.Catalog
	src := newSource(t, m.fake, cfg, Demand{MeshOnly: true, Services: []string{"s08", "nowhere"}}, slog.New(slog.DiscardHandler),
		func(c *watch.Catalog) { last = c })
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- src.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			difference = err.Error()
		}
	}()
	synctest.Wait()
	time.Sleep(5 * time.Second)
	for _, c := range all {
		m.apply(c)
		time.Sleep(c.pause)
	}
	m.apply(change{what: "catch up"})
	m.apply(change{what: "back"})
	time.Sleep(settle)
	synctest.Wait()
	for i := range 10 {
		name := m.name(i)
		want := normalise(name, m.fake.entries[name], reading{})
		got := last.Service(name)
		if got == nil {
			got = &watch.Service{Name: name}
		}
		if !got.Equal(want) {
			return fmt.Sprintf("%s is %s, and in Consul %s; status %+v", name, show(got), show(want), src.Status())
		}
	}
	if _, most := m.fake.counted(); most > 16 {
		return fmt.Sprintf("%d requests at once", most)
	}
	return ""
}

func show(s *watch.Service) (text string) {
	for _, i := range s.Instances {
		text += fmt.Sprintf("[%s %s:%d %s weight %d mesh %d %v]", i.ID, i.Address, i.Port, i.Health, i.Weight, i.MeshPort, i.Tags)
	}
	return text
}

// Whatever happens to checks and instances, the catalog is soon what a whole read
// would have, for services without a watch of their own too: not because each is
// read once a wait, which is ten minutes here.
func TestAnySequenceOfChecksEndsInTheSameCatalog(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		all := changes(ofChecks).Draw(rt, "changes")
		var difference string
		bubble(t, func(t *testing.T) {
			difference = follow(t, Config{Wait: 10 * time.Minute}, 90*time.Second, all)
		})
		if difference != "" {
			rt.Fatal(difference)
		}
	})
}

// What changes no check is there within a wait and a removal's confirmation.
func TestAnySequenceEndsInTheSameCatalog(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		all := changes(ofAnything).Draw(rt, "changes")
		var difference string
		bubble(t, func(t *testing.T) {
			difference = follow(t, Config{}, 5*time.Minute, all)
		})
		if difference != "" {
			rt.Fatal(difference)
		}
	})
}
