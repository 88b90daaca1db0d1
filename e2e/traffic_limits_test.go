package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"datapunk.dev/controlplane/e2e/app"
	"datapunk.dev/controlplane/e2e/harness"
	"datapunk.dev/controlplane/e2e/traffic"
)

// passed sends requests one after another, and returns how many were not 429. What
// was refused says who refuses it, and when to come again.
func passed(t *testing.T, m *harness.Mesh, from string, requests int, header http.Header) (n int) {
	t.Helper()
	for range requests {
		switch r := m.Do(from, traffic.Request{Host: "lake_service", Header: header}); r.Status {
		case http.StatusOK:
			n++
		case http.StatusTooManyRequests:
			if r.Header.Get("retry-after") == "" || r.Header.Get("x-ratelimit-remaining") == "" || r.Header.Get("x-mesh-error") != "MC3017" ||
				!strings.Contains(r.Body, "the rate limit of lake_service is used up (MC3017)") {
				t.Errorf("refused with %v %s", r.Header, r)
			}
		default:
			t.Errorf("%s", r)
		}
	}
	return n
}

// TestLimitsByCaller: a service's own sidecar refuses what is too much, by the identity
// in the caller's certificate whatever its headers say, and forgets nothing for an edit
// of something else. The buckets are of a minute, so that none fills while it is looked
// at but for a request or two.
func TestLimitsByCaller(t *testing.T) {
	limits := strings.NewReplacer("requests: 100", "requests: 100\n          interval: 1m", "{requests: 5}", "{requests: 5, interval: 1m}", "{requests: 50}", "{requests: 50, interval: 1m}").
		Replace(example(t, "limits"))
	m := harness.Start(t, harness.Options{Overlay: limits})
	m.Add(harness.Spec{Service: "nexus", ID: caller})
	m.Add(harness.Spec{Service: "forge", ID: "forge-1"})
	lake := m.Add(harness.Spec{Service: "lake_service", ID: "lake-1"})
	m.Ready()
	between := func(what string, n, least, most int) {
		t.Helper()
		if n < least || n > most {
			t.Errorf("%s: %d passed, want %d to %d", what, n, least, most)
		}
	}
	exhausted := func(what string) {
		t.Helper()
		between(what, passed(t, m, caller, 10, nil), 0, 2)
	}

	// What why says of the limits is what becomes of the calls.
	said := asks(m, "why", "nexus", "lake_service")
	if !strings.Contains(said.Stdout, "up to 5 in 1m of nexus at each instance, and 100 in 1m of all callers together at each instance; more is answered 429 (MC3017)") {
		t.Errorf("why says: %s%s", said.Stdout, said.Stderr)
	}
	between("nexus", passed(t, m, caller, 20, nil), 5, 6)
	if n := lake.App.Count(); n > 6 {
		t.Errorf("%d requests came to the application", n)
	}
	between("forge, which says that it is nexus", passed(t, m, "forge-1", 40, http.Header{
		"X-Forwarded-Client-Cert": {"URI=spiffe://datapunk/nexus"}, "X-Caller": {"nexus"},
	}), 40, 40)
	between("forge", passed(t, m, "forge-1", 40, nil), 10, 12)
	_, err := app.CallUnary(t.Context(), dialGRPC(t, m.Sidecar(caller).Outbound(), "lake_service"), "x")
	if s := status.Convert(err); s.Code() != codes.ResourceExhausted || !strings.Contains(s.Message(), "MC3017") {
		t.Errorf("a call of gRPC: %v", err)
	}

	// Neither its policies nor its routes fill its buckets, nor a restart of the
	// control plane.
	listener := m.Resource("lake-1", "listener", "inbound").Updated
	routes := m.Resource("lake-1", "route", "inbound").Updated
	denied := limits + "  security:\n    authorization:\n      policies:\n        - {name: all, action: ALLOW, principals: [\"spiffe://datapunk/*\"]}\n        - {name: admin, action: DENY, paths: [/admin]}\n"
	m.Edit(denied)
	harness.Eventually(t, "the policy holds", 10*time.Second, func() error {
		if m.Resource("lake-1", "route", "inbound").Updated.Equal(routes) {
			return fmt.Errorf("not yet")
		}
		return nil
	})
	exhausted("after an edit of a policy")

	// Its own edit does. A shadow counts, and refuses nobody.
	m.Edit(strings.Replace(denied, "requests: 100", "mode: shadow\n          requests: 100", 1))
	harness.Eventually(t, "nobody is refused", 10*time.Second, func() error {
		if n := passed(t, m, caller, 10, nil); n != 10 {
			return fmt.Errorf("%d of 10 passed", n)
		}
		return nil
	})
	over := "mesh.http_local_rate_limit.rate_limited"
	if s := m.Stats("lake-1"); s[over] == 0 {
		t.Errorf("no %s is counted: %v", over, s)
	}
	if now := m.Resource("lake-1", "listener", "inbound").Updated; !now.Equal(listener) {
		t.Errorf("the listener was changed at %s", now)
	}
}

// TestALimitOfAServiceIsDividedAmongItsInstances, and of those that come each has its
// part.
func TestALimitOfAServiceIsDividedAmongItsInstances(t *testing.T) {
	m := harness.Start(t, harness.Options{Overlay: `mesh:
  services:
    lake_service: {load_balancing: {policy: round_robin}, rate_limit: {requests: 20, interval: 1m, per: service}}
`})
	m.Add(harness.Spec{Service: "nexus", ID: caller})
	m.Add(harness.Spec{Service: "lake_service", ID: "lake-1"})
	m.Ready()
	if n := passed(t, m, caller, 40, nil); n < 20 || n > 22 {
		t.Errorf("of one instance %d passed", n)
	}
	m.Add(harness.Spec{Service: "lake_service", ID: "lake-2"})
	m.Ready()
	// Each begins with half: its bucket is another one now.
	harness.Eventually(t, "both are called", 20*time.Second, func() error {
		if m.Sidecar("lake-2").App.Count() == 0 {
			passed(t, m, caller, 1, nil)
			return fmt.Errorf("not yet")
		}
		return nil
	})
	r := traffic.Load{Addr: m.Sidecar(caller).Outbound(), Request: traffic.Request{Host: "lake_service"}, Requests: 60}.Do(t.Context())
	if n := r.Status[http.StatusOK]; n < 14 || n > 22 || r.Instances["lake-2"] < 7 || r.Instances["lake-2"] > 11 {
		t.Errorf("of two instances: %s", r)
	}
}
