package e2e

import (
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"datapunk.dev/controlplane/e2e/harness"
	"datapunk.dev/controlplane/e2e/run"
	"datapunk.dev/controlplane/e2e/traffic"
)

// passes waits until a load has had n more answers. None may be a failure, nor
// any before.
func passes(t *testing.T, load *traffic.Running, n int) {
	t.Helper()
	if r := load.Take(); r.Failed() > 0 {
		t.Errorf("%s", r)
	}
	harness.Eventually(t, fmt.Sprintf("%d requests pass", n), 10*time.Second, func() error {
		if r := load.Snapshot(); r.Requests < n {
			return fmt.Errorf("%s", r)
		}
		return nil
	})
	if r := load.Snapshot(); r.Failed() > 0 {
		t.Errorf("%s", r)
	}
}

// TestConsulDecidesWhoTakesTraffic, and no request fails while it does.
func TestConsulDecidesWhoTakesTraffic(t *testing.T) {
	m := harness.Start(t, harness.Options{Consul: true})
	m.Add(harness.Spec{Service: "nexus", ID: caller})
	m.Add(harness.Spec{Service: "lake_service", ID: "lake-1"})
	lake2 := m.Add(harness.Spec{Service: "lake_service", ID: "lake-2"})
	m.Ready()
	inRotation(t, m, "lake_service", "lake-1", "lake-2")
	load := m.Load(caller, "lake_service", traffic.Load{Rate: 100})
	passes(t, load, 20)

	t.Run("an instance made critical stops", func(t *testing.T) {
		m.SetHealth("lake-2", run.Critical)
		harness.Eventually(t, "nexus-1 knows", 5*time.Second, func() error {
			h, err := host(m, lake2)
			if err == nil && h.Health.EDS != "UNHEALTHY" {
				err = fmt.Errorf("%s", h.Health.EDS)
			}
			return err
		})
		passes(t, load, 1) // what was under way
		lake2.App.Forget()
		passes(t, load, 60)
		if n := lake2.App.Count(); n > 0 {
			t.Errorf("it got %d requests", n)
		}
	})
	t.Run("one that passes again starts", func(t *testing.T) {
		m.SetHealth("lake-2", run.Passing)
		inRotation(t, m, "lake_service", "lake-1", "lake-2")
	})
	t.Run("a new one starts", func(t *testing.T) {
		m.Add(harness.Spec{Service: "lake_service", ID: "lake-3"})
		inRotation(t, m, "lake_service", "lake-1", "lake-2", "lake-3")
	})
	t.Run("one that is deregistered goes", func(t *testing.T) {
		m.Deregister("lake-2")
		harness.Eventually(t, "nexus-1 has forgotten it", 5*time.Second, func() error {
			if h, err := host(m, lake2); err == nil {
				return fmt.Errorf("it is %s", h.Health.EDS)
			}
			return nil
		})
		passes(t, load, 1)
		lake2.App.Forget()
		passes(t, load, 60)
		if n := lake2.App.Count(); n > 0 {
			t.Errorf("it got %d requests", n)
		}
	})
	if r := load.Stop(); r.Failed() > 0 {
		t.Errorf("%s", r)
	}
}

// query is one that Consul got: where, and for which datacenter.
type query struct{ host, port, datacenter string }

// asked passes queries on to a Consul and remembers the newest.
type asked struct {
	mu    sync.Mutex
	proxy http.Handler // nil: there is no Consul yet
	last  query
}

func (a *asked) newest() query {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.last
}

// forward says where Consul is.
func (a *asked) forward(address string) {
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: address})
	proxy.ErrorLog = log.New(io.Discard, "", 0) // of queries that the control plane gave up
	a.mu.Lock()
	defer a.mu.Unlock()
	a.proxy = proxy
}

// listen takes queries at an address and returns the port.
func (a *asked) listen(t *testing.T, host string, port int) int {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(port)))
	if err != nil {
		t.Fatal(err)
	}
	port = l.Addr().(*net.TCPAddr).Port
	server := &httptest.Server{Listener: l, Config: &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.mu.Lock()
		a.last = query{host, strconv.Itoa(port), r.URL.Query().Get("dc")}
		proxy := a.proxy
		a.mu.Unlock()
		proxy.ServeHTTP(w, r)
	})}}
	server.Start()
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	return port
}

// consulKeys are the keys of discovery in the operators' mesh file, with the edits that
// TestAnEditOfDiscoveryReachesConsulAndNothingElse makes: to another address
// and port of the same Consul, to a datacenter that it does not know, and to a
// file in which lake_service has the weight 5. ports are the old and the new.
func consulKeys(ports []int, file string) []seedKey {
	if ports == nil {
		ports = []int{0, 0}
	}
	return []seedKey{
		{
			key: "discovery.consul.host", at: func(s *sight) any { return s.query.host }, now: "127.0.0.1",
			old: "${CONSUL_HOST:-consul}", edited: "127.0.0.2", then: "127.0.0.2",
		},
		{
			key: "discovery.consul.port", at: func(s *sight) any { return s.query.port }, now: ports[0],
			old: "${CONSUL_PORT:-8500}", edited: strconv.Itoa(ports[1]), then: ports[1],
		},
		{
			key: "discovery.consul.datacenter", at: func(s *sight) any { return s.query.datacenter }, now: "dc1",
			old: "${CONSUL_DC:-dc1}", edited: "dc2", then: "dc2", alone: true,
		},
		{
			key: "discovery.consul.register_interval", at: func(s *sight) any { return s.registrations.Interval }, now: "10s",
			old: "register_interval: 10s", edited: "register_interval: 20s", then: "20s",
		},
		{
			key: "discovery.consul.deregister_critical_service_after", at: func(s *sight) any { return s.registrations.After }, now: "30s",
			old: "deregister_critical_service_after: 30s", edited: "deregister_critical_service_after: 40s", then: "40s",
		},
		{
			key: "discovery.method", at: field("endpoint", "lake_service", "endpoints.0.lb_endpoints.0.load_balancing_weight"), now: 1,
			old: "method: consul", edited: "method: file\n    file: " + file, then: 5, moves: []string{"endpoint"},
		},
	}
}

// TestAnEditOfDiscoveryReachesConsulAndNothingElse.
func TestAnEditOfDiscoveryReachesConsulAndNothingElse(t *testing.T) {
	queries := &asked{}
	ports := []int{queries.listen(t, "127.0.0.1", 0)}
	queries.listen(t, "127.0.0.2", ports[0])
	ports = append(ports, queries.listen(t, "127.0.0.2", 0))
	m := harness.New(t, harness.Options{Consul: true, Registers: true, Env: []string{"CONSUL_PORT=" + strconv.Itoa(ports[0])}})
	queries.forward(m.Consul.HTTP)
	m.StartPlane()
	m.Add(harness.Spec{Service: "nexus", ID: caller})
	m.Add(harness.Spec{Service: "lake_service", ID: "lake-1"})
	m.Ready()

	catalog, err := run.NewFileCatalog(filepath.Join(harness.Dir(t), "catalog.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range m.Sidecars() {
		i := s.Instance()
		if s.Service == "lake_service" {
			i.Weight = 5
		}
		if err := catalog.Register(i); err != nil {
			t.Fatal(err)
		}
	}

	before, err := versions(m)
	if err != nil {
		t.Fatal(err)
	}
	s, err := look(m, queries)
	if err != nil {
		t.Fatal(err)
	}
	e := &editor{m: m, asked: queries, before: before}
	for _, k := range consulKeys(ports, catalog.Path) {
		if got := fmt.Sprint(k.at(s)); got != fmt.Sprint(k.now) {
			t.Errorf("%s shows up as %s, want %v", k.key, got, k.now)
		}
		e.edit(t, k, k.old, k.edited, k.then)
		if k.alone {
			e.edit(t, k, k.edited, k.old, k.now)
		}
	}
	if r := m.Call(caller, "lake_service", "/"); r.Status != http.StatusOK {
		t.Errorf("after the edits: %s", r)
	}
}
