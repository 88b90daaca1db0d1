package consul

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"datapunk.dev/controlplane/watch"
)

// cold starts a source with more services than connections.
func cold(t *testing.T, n int) (*fakeConsul, *run) {
	t.Helper()
	fake := newFake()
	for i := range n {
		fake.set(fmt.Sprintf("s%02d", i), many(3)...)
	}
	fake.connections = 16
	return fake, start(t, fake, Demand{MeshOnly: true, Services: []string{fmt.Sprintf("s%02d", n-1)}})
}

// settle waits, and then until all that was begun meanwhile has been done.
func settle(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func TestBudgetOfConnections(t *testing.T) {
	bubble(t, func(t *testing.T) {
		fake, r := cold(t, 30)
		if r.catalog().Len() != 30 {
			t.Fatalf("%d services", r.catalog().Len())
		}
		if st := r.Stats(); st.Services != 30 || st.Cold != 25 || r.Status().Mode != "http1+trigger" {
			t.Errorf("%+v, mode %s", st, r.Status().Mode)
		}
		if r.services["s29"].cold {
			t.Error("a service wanted by name has no connection")
		}

		// A check that changes is seen at once, in every service.
		began := time.Now()
		five := many(5)
		for i := range 30 {
			if name := fmt.Sprintf("s%02d", i); r.services[name].cold {
				fake.set(name, five...)
				settle(explain)
				r.want(name, 5)
				break
			}
		}
		if d := time.Since(began); d > explain {
			t.Errorf("it took %s", d)
		}
		for i := range 30 {
			four := many(4)
			four[3].Checks[0].Status = "critical"
			fake.set(fmt.Sprintf("s%02d", i), four...)
		}
		settle(time.Second)
		for i := range 30 {
			r.want(fmt.Sprintf("s%02d", i), 4)
		}

		// What changes no check is seen within a wait.
		for i := range 30 {
			moved := many(4)
			moved[3].Service.Weights.Passing = 7
			fake.set(fmt.Sprintf("s%02d", i), moved...)
		}
		settle(56 * time.Second)
		for i := range 30 {
			if got := r.catalog().Service(fmt.Sprintf("s%02d", i)).Instances[3].Weight; got != 7 {
				t.Errorf("service %d has weight %d", i, got)
			}
		}
		if _, most := fake.counted(); most > 16 {
			t.Errorf("%d requests at once", most)
		}
	})
}

func TestAFreeConnectionIsUsed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		fake, r := cold(t, 8)
		if r.Stats().Cold != 3 {
			t.Fatalf("%+v", r.Stats())
		}
		for i := range 4 {
			fake.set(fmt.Sprintf("s%02d", i))
		}
		settle(2 * time.Minute)
		if st := r.Stats(); st.Cold != 0 || r.Status().Mode != "http1" {
			t.Errorf("%+v, mode %s, status %+v", st, r.Status().Mode, r.Status())
		}
		fake.set("s07", many(5)...)
		r.want("s07", 5)
	})
}

// A node that dies changes no check of its services' own.
func TestANodesCheckReachesColdServices(t *testing.T) {
	bubble(t, func(t *testing.T) {
		fake := newFake()
		fake.connections = 16
		for i := range 6 {
			fake.set(fmt.Sprintf("s%02d", i), many(3)...)
		}
		on := func(node, status string) entry {
			return at1("10.3.0.1", func(e *entry) {
				e.Node.Node = node
				e.Checks = append(e.Checks, check{"serfHealth", status})
			})
		}
		fake.set("s06", on("n5", "passing"))
		fake.set("s07", on("n6", "passing"))
		r := start(t, fake, Demand{MeshOnly: true})
		if !r.services["s06"].cold || !r.services["s07"].cold {
			t.Fatal("s06 or s07 has a connection")
		}
		asked := len(fake.requests(healthPath("s06")))
		fake.set("s07", on("n6", "critical"))
		if h := r.catalog().Service("s07").Instances[0].Health; h != watch.Critical {
			t.Errorf("health %s", h)
		}
		if len(fake.requests(healthPath("s06"))) != asked {
			t.Error("a service of another node was read again")
		}
	})
}

func TestAColdServiceThatCannotBeRead(t *testing.T) {
	bubble(t, func(t *testing.T) {
		fake, r := cold(t, 8)
		fake.fail(func(req *http.Request) (*http.Response, error) {
			if req.URL.Path == healthPath("s06") {
				return reply(500, "broken", nil), nil
			}
			return nil, nil
		})
		fake.set("s06", many(4)...)
		settle(explain)
		r.wantWaiting("service s06: 500 broken")
		r.want("s06", 3)
		fake.fail(nil)
		settle(maxBackoff)
		r.want("s06", 4)
	})
}

func TestHTTP2NeedsNoBudget(t *testing.T) {
	bubble(t, func(t *testing.T) {
		fake := newFake()
		fake.http2 = true
		for i := range 100 {
			fake.set(fmt.Sprintf("s%02d", i), many(1)...)
		}
		fake.connections = 16
		r := start(t, fake, Demand{MeshOnly: true})
		if r.Stats().Cold != 0 || r.Status().Mode != "http2" || r.catalog().Len() != 100 {
			t.Errorf("%+v, status %+v", r.Stats(), r.Status())
		}
	})
}

// A port that changes is shown by no check: it is looked for, and not only once a
// wait.
func TestWhatNoCheckShowsIsLookedFor(t *testing.T) {
	bubble(t, func(t *testing.T) {
		fake, r := cold(t, 30)
		for i := range 30 {
			name := fmt.Sprintf("s%02d", i)
			if !r.services[name].cold {
				continue
			}
			moved := many(3)
			moved[2].Service.Port = 81
			fake.set(name, moved...)
			settle(unexplained + time.Second)
			if got := r.catalog().Service(name).Instances[2].Port; got != 81 {
				t.Fatalf("%s has port %d", name, got)
			}
		}
		before, _ := fake.counted()
		settle(30 * time.Second)
		if after, _ := fake.counted(); after-before > 30 {
			t.Errorf("%d requests, with nothing to look for", after-before)
		}
	})
}

// A server that has not yet seen what the checks say is not believed: the leader
// is asked.
func TestAServerThatIsBehind(t *testing.T) {
	bubble(t, func(t *testing.T) {
		fake, r := cold(t, 8)
		fake.lock(fake.lag)
		failed := many(3)
		failed[0].Checks[0].Status = "critical"
		for i := range 8 {
			fake.set(fmt.Sprintf("s%02d", i), failed...)
		}
		for i := range 8 {
			if got := r.catalog().Service(fmt.Sprintf("s%02d", i)).Instances[0].Health; got != watch.Critical {
				t.Errorf("s%02d is %s", i, got)
			}
		}
	})
}

// Of checks that no answer of their service has, the leader is asked once.
func TestChecksOfNoInstance(t *testing.T) {
	bubble(t, func(t *testing.T) {
		fake := newFake()
		fake.connections = 16
		for i := range 8 {
			fake.set(fmt.Sprintf("s%02d", i), many(3-i/7)...)
		}
		fake.fail(func(req *http.Request) (*http.Response, error) {
			switch {
			case req.URL.Path != "/v1/health/state/any":
				return nil, nil
			case req.URL.Query().Has("index"):
				<-req.Context().Done()
				return nil, req.Context().Err()
			}
			return reply(200, `[{"Node":"other","CheckID":"c","Status":"critical","ServiceID":"x","ServiceName":"s07"}]`, http.Header{"X-Consul-Index": {"100"}}), nil
		})
		r := start(t, fake, Demand{MeshOnly: true})
		settle(5 * time.Second)
		if asked := fake.requests(healthPath("s07")); !r.services["s07"].cold || len(asked) < 2 || len(asked) > 6 {
			t.Errorf("asked %d times", len(asked))
		}
		r.want("s07", 2)
	})
}

// Watches go to the services that change, when the others' queries come back.
func TestAWatchGoesToWhatChanges(t *testing.T) {
	bubble(t, func(t *testing.T) {
		fake, r := cold(t, 30)
		var busy string
		for name, svc := range r.services {
			if svc.cold {
				busy = name
			}
		}
		for i := range 4 {
			fake.set(busy, many(3+i)...)
			settle(2 * time.Second)
			r.want(busy, 3+i)
		}
		settle(time.Minute)
		if r.services[busy].cold || r.Stats().Cold != 25 {
			t.Errorf("it has no watch; %+v", r.Stats())
		}
		if _, most := fake.counted(); most > 16 {
			t.Errorf("%d requests at once", most)
		}
		fake.set(busy, many(9)...)
		r.want(busy, 9)
		if n := strings.Count(r.logged(), "discovery.consul.scheme: https"); n != 1 {
			t.Errorf("the advice is in the log %d times", n)
		}
	})
}

// Services that are named and not there need no watch.
func TestServicesThatAreNotThereHaveNoWatch(t *testing.T) {
	bubble(t, func(t *testing.T) {
		fake := newFake()
		fake.connections = 16
		var named []string
		for i := range 20 {
			named = append(named, fmt.Sprintf("a%02d", i))
		}
		for i := range 5 {
			fake.set(fmt.Sprintf("s%02d", i), many(3)...)
		}
		r := start(t, fake, Demand{MeshOnly: true, Services: named})
		for i := range 5 {
			if r.services[fmt.Sprintf("s%02d", i)].cold {
				t.Errorf("s%02d has none", i)
			}
		}
		fake.set("a07", many(2)...)
		settle(explain)
		r.want("a07", 2)
	})
}
