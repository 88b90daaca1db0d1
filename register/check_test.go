package register

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// serveHealth runs an application that tells its health by gRPC, until the test ends.
func serveHealth(t *testing.T) (status *health.Server, address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	status = health.NewServer()
	g := grpc.NewServer()
	healthpb.RegisterHealthServer(g, status)
	go func() { _ = g.Serve(l) }()
	t.Cleanup(g.Stop)
	return status, l.Addr().String()
}

// What a check comes to.
func TestChecks(t *testing.T) {
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/hangs" {
			<-release
			return
		}
		code, err := strconv.Atoi(r.URL.Path[1:])
		if err != nil {
			code = http.StatusNotFound // HTTP/2, as gRPC begins it
		}
		if code == http.StatusFound {
			w.Header().Set("Location", "/200")
		}
		w.WriteHeader(code)
	}))
	defer server.Close()
	defer close(release)
	address := strings.TrimPrefix(server.URL, "http://")
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	status, grpcAddress := serveHealth(t)
	status.SetServingStatus("down", healthpb.HealthCheckResponse_NOT_SERVING)
	for name, c := range map[string]struct {
		check Check
		want  Health
	}{
		"200":                   {Check{HTTP: server.URL + "/200"}, Passing},
		"204":                   {Check{HTTP: server.URL + "/204"}, Passing},
		"429":                   {Check{HTTP: server.URL + "/429"}, Warning},
		"500":                   {Check{HTTP: server.URL + "/500"}, Critical},
		"a redirect":            {Check{HTTP: server.URL + "/302"}, Critical},
		"no answer":             {Check{HTTP: server.URL + "/hangs", Timeout: 50 * time.Millisecond}, Critical},
		"nobody":                {Check{HTTP: gone.URL}, Critical},
		"a port":                {Check{TCP: address}, Passing},
		"a closed one":          {Check{TCP: strings.TrimPrefix(gone.URL, "http://")}, Critical},
		"gRPC":                  {Check{GRPC: grpcAddress}, Passing},
		"gRPC, not serving":     {Check{GRPC: grpcAddress + "/down"}, Critical},
		"gRPC, not known":       {Check{GRPC: grpcAddress + "/other"}, Critical},
		"gRPC of what has none": {Check{GRPC: address}, Critical},
		"gRPC of nobody":        {Check{GRPC: strings.TrimPrefix(gone.URL, "http://")}, Critical},
	} {
		if c.check.Timeout == 0 {
			c.check.Timeout = 5 * time.Second
		}
		if got := c.check.do(t.Context(), checkClient()); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

// An instance of the mesh file is registered with what its first check says, and
// follows it; an edit of the file changes nothing of that.
func TestAnInstanceOfTheFileIsChecked(t *testing.T) {
	var down atomic.Bool
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if down.Load() {
			w.WriteHeader(http.StatusInternalServerError)
		}
	}))
	defer server.Close()
	f := newFakeCatalog(t)
	a := f.start("a", Times{})
	instance := Instance{
		ID: "db-1", Service: "lake", Address: "10.2.2.2", Port: 5432,
		Check: &Check{HTTP: server.URL, Interval: 20 * time.Millisecond, Timeout: time.Second},
	}
	is := func(want Health) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		for {
			f.mu.Lock()
			s := f.nodes["mesh-db-1"]
			f.mu.Unlock()
			if s != nil && s.health == want {
				return
			}
			if !sleep(ctx, 5*time.Millisecond) {
				t.Fatalf("%+v, want %s", s, want)
			}
		}
	}
	a.Keep(nil, []Instance{instance})
	is(Passing)
	down.Store(true)
	is(Critical)
	a.Keep(nil, []Instance{instance})
	is(Critical)
	down.Store(false)
	is(Passing)
	if n := f.written(); n != 3 {
		t.Errorf("%d writes, want one for each change", n)
	}
}
