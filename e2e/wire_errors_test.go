package e2e

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	meshcodes "datapunk.dev/controlplane/codes"
	"datapunk.dev/controlplane/e2e/app"
	"datapunk.dev/controlplane/e2e/harness"
	"datapunk.dev/controlplane/e2e/run"
	"datapunk.dev/controlplane/e2e/traffic"
)

// errorMesh is a mesh where calls fail in every way.
func errorMesh(authorization string) string {
	return `mesh:
  name: m
  policies:
    retry: {attempts: 1, backoff: {base_interval: 1ms, max_interval: 2ms}}
    timeout: {connect: 1s}
  services:
    nexus: {upstreams: [lake, ghost, dead, slow]}
    ghost: {}
    dead: {}
    slow: {retry: {attempts: 0}, timeout: {request: 1s}, circuit_breakers: {max_requests: 1}}
    private: {}
  routes:
    - {name: broken, service: lake, match: [{path: {exact: /broken}}], fault: {abort: {status: 503, percent: 100}}}
    - {name: gone, service: lake, match: [{path: {exact: /gone}}], direct_response: {status: 404}}
  security:
    authorization:
` + authorization + `      policies:
        - {name: everybody, action: ALLOW, sources: [nexus]}
        - {name: no-admin, action: DENY, paths: [/admin/*]}
`
}

// TestErrorsOfTheMeshSayWhatIsWrong: whatever the mesh answers in its own name says so
// and why, on one line with a code that explain knows; what applications answer, and what
// the file has routes answer, stays as it is.
func TestErrorsOfTheMeshSayWhatIsWrong(t *testing.T) {
	m := harness.Start(t, harness.Options{Mesh: errorMesh("")})
	nexus := m.Add(harness.Spec{Service: "nexus", ID: "nexus-1", Unregistered: true})
	lake := m.Add(harness.Spec{Service: "lake", ID: "lake-1"})
	slow := m.Add(harness.Spec{Service: "slow", ID: "slow-1"})
	noError(t, m.Registry.Register(run.Instance{Service: "private", ID: "private-1", Port: harness.Port(t), MeshPort: harness.Port(t)}))
	m.Ready()
	noError(t, m.Registry.Register(run.Instance{Service: "dead", ID: "dead-1", Port: harness.Port(t), MeshPort: harness.Port(t)}))
	// said wants an answer in the name of the mesh.
	said := func(r traffic.Request, want int, code string, words ...string) {
		t.Helper()
		if _, ok := meshcodes.Lookup(code); !ok {
			t.Errorf("explain does not know %s", code)
		}
		harness.Eventually(t, code+" is said of "+r.Host+r.Path, 10*time.Second, func() error {
			got := m.Do("nexus-1", r)
			if got.Status != want || got.Header.Get("x-mesh-error") != code {
				return errors.New(got.String())
			}
			if r.Method == http.MethodHead {
				return nil
			}
			if strings.Contains(strings.TrimSuffix(got.Body, "\n"), "\n") || got.Header.Get("content-type") != "text/plain" {
				return fmt.Errorf("%q of type %s, want one line of text", got.Body, got.Header.Get("content-type"))
			}
			for _, w := range append(words, code) {
				if !strings.Contains(got.Body, w) {
					return fmt.Errorf("%q does not say %q", got.Body, w)
				}
			}
			return nil
		})
	}
	get := func(host, path string) traffic.Request { return traffic.Request{Host: host, Path: path} }

	t.Run("an unknown host", func(t *testing.T) {
		said(get("laek", "/"), 404, "MC3001", "laek", "no service of the mesh")
		said(traffic.Request{Host: "laek", Path: "/", Method: http.MethodHead}, 404, "MC3001")
	})
	t.Run("a service that is none of the upstreams", func(t *testing.T) {
		said(get("private", "/"), 404, "MC3001", "MC3002", "upstreams")
	})
	t.Run("no instance", func(t *testing.T) {
		said(get("ghost", "/"), 503, "MC3003", "ghost", "none is registered")
	})
	t.Run("an instance that does not listen", func(t *testing.T) {
		said(get("dead", "/"), 503, "MC3013", "dead", "connection")
	})
	t.Run("a denied call", func(t *testing.T) {
		said(get("lake", "/admin/x"), 403, "MC3005", "lake does not admit")
		if r := m.Call("nexus-1", "lake", "/admin/x"); strings.Contains(r.Body, "no-admin") {
			t.Errorf("the file does not allow it, and the caller is told the policy: %s", r)
		}
		if n := m.Stats("lake-1")["http.inbound.rbac.deny.policy.no-admin.denied"]; n == 0 {
			t.Error("the callee's statistics do not name the policy")
		}
	})
	t.Run("a path that is refused", func(t *testing.T) {
		said(get("lake", "/a%2Fb"), 400, "MC3011", "encoded slash")
	})
	t.Run("a fault of the file", func(t *testing.T) {
		said(get("lake", "/broken"), 503, "MC3009", "broken")
	})
	t.Run("a request that takes too long, and one too many", func(t *testing.T) {
		slow.App.Behave(app.Behavior{Hang: true})
		first := make(chan struct{})
		go func() {
			defer close(first)
			said(get("slow", "/"), 504, "MC3014", "slow")
		}()
		reached(t, slow.App, 1)
		said(get("slow", "/"), 503, "MC3012", "circuit breaker")
		<-first
	})
	t.Run("a connection that ends", func(t *testing.T) {
		slow.App.Behave(app.Behavior{Hang: true})
		before := slow.App.Count()
		answer := make(chan traffic.Response, 1)
		go func() {
			r, _ := traffic.Raw(t.Context(), nexus.Outbound(), get("slow", "/"))
			answer <- r
		}()
		harness.Eventually(t, "it is at the application", 900*time.Millisecond, func() error {
			if slow.App.Count() == before {
				return errors.New("not yet")
			}
			return nil
		})
		slow.Envoy.Kill()
		if r := <-answer; r.Status != 503 || r.Header.Get("x-mesh-error") != "MC3010" || !strings.Contains(r.Body, "ended before its answer") {
			t.Errorf("got %s %q", r, r.Body)
		}
	})
	t.Run("what applications and the file answer stays", func(t *testing.T) {
		for _, want := range []int{404, 503, 403, 500, 429} {
			lake.App.Behave(app.Behavior{FailRate: 1, FailStatus: want})
			if r := m.Call("nexus-1", "lake", "/"); r.Status != want || r.Reply.Instance != "lake-1" || r.Header.Get("x-mesh-error") != "" {
				t.Errorf("the application's %d became %s", want, r)
			}
		}
		lake.App.Behave(app.Behavior{})
		if r := m.Call("nexus-1", "lake", "/gone"); r.Status != 404 || r.Body != "" || r.Header.Get("x-mesh-error") != "" {
			t.Errorf("the file's 404 became %s", r)
		}
	})
	t.Run("gRPC", func(t *testing.T) {
		for _, test := range []struct {
			host string
			want codes.Code
			code string
		}{{"laek", codes.Unimplemented, "MC3001"}, {"ghost", codes.Unavailable, "MC3003"}, {"dead", codes.Unavailable, "MC3013"}} {
			_, err := app.CallUnary(harness.Context(t, 10*time.Second), dialGRPC(t, nexus.Outbound(), test.host), "hello")
			if s := status.Convert(err); s.Code() != test.want || !strings.Contains(s.Message(), test.code) {
				t.Errorf("%s: %v, want %s and %s", test.host, err, test.want, test.code)
			}
		}
	})
	t.Run("the policy, where the file allows it, and no connection is drained for that", func(t *testing.T) {
		before := m.Dump("lake-1").Versions()["listener inbound"]
		dials := m.Client("nexus-1").Dials()
		m.Edit(errorMesh("      explain_denials: true\n"))
		said(get("lake", "/admin/x"), 403, "MC3005", "no-admin")
		m.Edit(errorMesh(""))
		harness.Eventually(t, "it is not said any more", 10*time.Second, func() error {
			if r := m.Call("nexus-1", "lake", "/admin/x"); r.Status != 403 || strings.Contains(r.Body, "no-admin") {
				return errors.New(r.String() + " " + r.Body)
			}
			return nil
		})
		if after := m.Dump("lake-1").Versions()["listener inbound"]; after != before {
			t.Errorf("the listener moved: %s, was %s", after, before)
		}
		if n := m.Client("nexus-1").Dials(); n != dials {
			t.Errorf("%d connections were opened anew", n-dials)
		}
	})
	t.Run("an application that is down", func(t *testing.T) {
		lake.App.Die()
		said(get("lake", "/"), 503, "MC3016", "application of lake")
	})
}
