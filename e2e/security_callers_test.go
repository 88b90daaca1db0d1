package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"datapunk.dev/controlplane/e2e/harness"
	"datapunk.dev/controlplane/e2e/traffic"
	"datapunk.dev/controlplane/internal/tool"
)

func TestCallerOutsideTheTrustDomainOrWithoutACertificateIsRefused(t *testing.T) {
	m := harness.Start(t, harness.Options{Overlay: quietMesh})
	lake := m.Add(harness.Spec{Service: "lake_service", ID: "lake-1"})
	m.Ready()
	ours := meshAuthority(t, m)
	foreign := foreignAuthority(t, ours)
	service := authorityOf(t, ours.issue(t, []string{meshID("stream_service")}))

	for name, c := range map[string]struct {
		cert    *tls.Certificate
		counter string // of the listener, that has to count it
	}{
		"no certificate":                      {nil, "ssl.fail_verify_no_cert"},
		"another trust domain":                {ours.issue(t, []string{"spiffe://other/x"}), "ssl.fail_verify_san"},
		"a trust domain that begins like it":  {ours.issue(t, []string{"spiffe://datapunk.evil/nexus"}), "ssl.fail_verify_san"},
		"the trust domain without a service":  {ours.issue(t, []string{"spiffe://datapunk"}), "ssl.fail_verify_san"},
		"the trust domain in a path":          {ours.issue(t, []string{"spiffe://other/spiffe://datapunk/nexus"}), "ssl.fail_verify_san"},
		"another scheme":                      {ours.issue(t, []string{"https://datapunk/nexus"}), "ssl.fail_verify_san"},
		"an identity in the common name":      {ours.issue(t, nil, named(meshID("nexus"))), "ssl.fail_verify_san"},
		"an identity as a name of the DNS":    {ours.issue(t, nil, func(c *x509.Certificate) { c.DNSNames = []string{meshID("nexus")} }), "ssl.fail_verify_san"},
		"the right name by a foreign CA":      {foreign.issue(t, []string{meshID("nexus")}), "ssl.fail_verify_error"},
		"the right name, signed by a service": {service.issue(t, []string{meshID("nexus")}), "ssl.fail_verify_error"},
		"an expired certificate":              {ours.issue(t, []string{meshID("nexus")}, expired), "ssl.fail_verify_error"},
	} {
		t.Run(name, func(t *testing.T) {
			before := inboundStat(t, m, lake, c.counter)
			if r, err := callTLS(t.Context(), lake.Inbound(), ours.caller(c.cert), traffic.Request{Host: "lake_service"}); err == nil {
				t.Errorf("answered: %s", r)
			}
			// The caller may learn that it is refused before Envoy counts it.
			noError(t, tool.Until(t.Context(), c.counter, 5*time.Second, func() error {
				if n := inboundStat(t, m, lake, c.counter) - before; n != 1 {
					return fmt.Errorf("went up by %d, not 1: %v", n, m.Stats("lake-1").Prefix("listener."))
				}
				return nil
			}))
		})
	}
	t.Run("plaintext", func(t *testing.T) {
		if r, err := traffic.Raw(t.Context(), lake.Inbound(), traffic.Request{Host: "lake_service"}); err == nil {
			t.Errorf("answered: %s", r)
		}
	})
	if n := lake.App.Count(); n != 0 {
		t.Errorf("the app saw %d requests of callers that are nobody: %v", n, lake.App.Arrivals())
	}

	t.Run("a service of the mesh passes", func(t *testing.T) {
		r, err := callTLS(t.Context(), lake.Inbound(), ours.caller(ours.issue(t, []string{meshID("nexus")})), traffic.Request{
			Host: "lake_service",
			// What a caller claims to be is not passed on.
			Header: http.Header{"X-Forwarded-Client-Cert": {"URI=" + meshID("admin")}},
		})
		noError(t, err)
		got := r.Reply.Headers["x-forwarded-client-cert"]
		if !strings.HasPrefix(got, "By="+meshID("lake_service")+";") || !strings.HasSuffix(got, ";URI="+meshID("nexus")) || strings.Contains(got, "admin") {
			t.Errorf("%s; x-forwarded-client-cert is %q", r, got)
		}
		if r.Status != 200 {
			t.Errorf("%s", r)
		}
	})
}

const (
	// Whoever does not see them all as /admin lets one pass.
	denyAdmin = `        - {name: no-admin, action: DENY, destinations: [lake_service], paths: ["/admin/*"]}
        - {name: no-delete, action: DENY, destinations: [lake_service], methods: [DELETE]}
        - {name: to-lake, action: ALLOW, destinations: [lake_service], principals: ["spiffe://datapunk/*"]}
`
	// Whoever widens /public lets more pass than the file says.
	allowPublic = `        - {name: nexus-reads, action: ALLOW, destinations: [stream_service], sources: [nexus], paths: ["/public/*"], methods: [GET]}
`
)

func TestRequestWithAPathOrMethodThatARuleDeniesIsRefusedHoweverItIsSpelled(t *testing.T) {
	m := harness.Start(t, harness.Options{Overlay: withPolicies(denyAdmin + allowPublic)})
	lake := m.Add(harness.Spec{Service: "lake_service", ID: "lake-1"})
	stream := m.Add(harness.Spec{Service: "stream_service", ID: "stream-1"})
	nexus := m.Add(harness.Spec{Service: "nexus", ID: "nexus-1"})
	m.Ready()
	ours := meshAuthority(t, m)
	as := func(service string) *tls.Config { return ours.caller(ours.issue(t, []string{meshID(service)})) }

	// A caller in control of its machine dials its peer itself: what its own
	// sidecar would have made of the path does not count.
	type call struct {
		method, path string
		status       int
	}
	try := func(t *testing.T, to *harness.Sidecar, from *tls.Config, calls []call) {
		t.Helper()
		for _, c := range calls {
			before := to.App.Count()
			r, err := callTLS(t.Context(), to.Inbound(), from, traffic.Request{Host: to.Service, Method: c.method, Path: c.path})
			if err != nil {
				t.Errorf("%s %s: %v", c.method, c.path, err)
				continue
			}
			if r.Status != c.status {
				t.Errorf("%s %s: %s; want %d", c.method, c.path, r, c.status)
			}
			passed := to.App.Count() > before
			if want := c.status == 200; passed != want {
				t.Errorf("%s %s: reached the app: %t, want %t", c.method, c.path, passed, want)
			}
		}
	}

	t.Run("DENY", func(t *testing.T) {
		try(t, lake, as("nexus"), []call{
			{"GET", "/admin", 403},
			{"GET", "/admin/", 403},
			{"GET", "/admin/users", 403},
			{"POST", "/admin/users", 403},
			{"GET", "/admin?x=1", 403},
			{"GET", "/admin/users?x=/../public", 403},
			{"GET", "//admin/users", 403},
			{"GET", "/admin//", 403},
			{"GET", "///admin///users", 403},
			{"GET", "/./admin/users", 403},
			{"GET", "/admin/./users", 403},
			{"GET", "/admin/.", 403},
			{"GET", "/public/../admin/users", 403},
			{"GET", "/../admin", 403},
			{"GET", "/%2e/admin/users", 403},
			{"GET", "/public/%2e%2e/admin", 403},
			{"GET", "/public/.%2E/admin", 403},
			{"GET", "/%61dmin/users", 403},
			{"GET", "/%41dmin", 403},
			{"GET", "/ADMIN/users", 403},
			{"GET", "/aDmIn", 403},
			{"GET", `\admin\users`, 400},
			{"GET", `/admin\users`, 403},
			{"GET", `/public\..\admin`, 403},
			{"GET", "/admin/users;a=b", 403},
			{"GET", "/admin/;a=b", 403},
			{"GET", "/admin%2Fusers", 400},
			{"GET", "/admin%2fusers", 400},
			{"GET", "/%2Fadmin", 400},
			{"GET", "/admin%5Cusers", 400},
			{"GET", "/admin%5cusers", 400},
			{"GET", "/public/..%5cadmin", 400},
			{"GET", "/admin%00", 400},
			{"GET", "/admin#x", 400},
			{"GET", "http://elsewhere/admin/users", 403},
			{"GET", "http://elsewhere//admin/users", 403},
			{"GET", "/admin//../users", 403},
			{"DELETE", "/", 403},
			{"DELETE", "/public", 403},
			{"delete", "/public", 400},

			{"GET", "/", 200},
			{"GET", "/public", 200},
			{"POST", "/public?path=/admin/", 200},
			{"GET", "/administrator", 200},
			{"GET", "/public/admin/users", 200},
			{"GET", "/admin/../public", 200},
			{"GET", "/admin.", 200},
			// What stands behind a semicolon is the application's own affair, as
			// docs/security.md says.
			{"GET", "/admin;a=b", 200},
		})
	})

	t.Run("ALLOW", func(t *testing.T) {
		try(t, stream, as("nexus"), []call{
			{"GET", "/public", 200},
			{"GET", "/public/x", 200},
			{"GET", "/public/x?y=/../..", 200},
			// RFC 3986: .. takes the empty segment away. The app gets /public/private.
			{"GET", "/public//../private", 200},
			{"GET", "//public//x", 200},
			{"GET", "/private", 403},
			{"GET", "/publicity", 403},
			{"GET", "/PUBLIC/x", 403},
			{"GET", "/public/../private", 403},
			{"GET", "/public/%2e%2e/private", 403},
			{"GET", "/public/x/../../private", 403},
			{"GET", `/public\..\private`, 403},
			{"GET", "/public/..%2fprivate", 400},
			{"GET", "/public/..%5Cprivate", 400},
			{"GET", "/private?/public/", 403},
			{"GET", "/private;/public/", 403},
			{"GET", "/public;/../private", 403},
			{"HEAD", "/public/x", 403},
			{"POST", "/public/x", 403},
			{"PUT", "/public/x", 403},
			{"OPTIONS", "/public/x", 403},
		})
		try(t, stream, as("lake_service"), []call{
			{"GET", "/public/x", 403},
		})
	})

	t.Run("over HTTP/2", func(t *testing.T) {
		config := as("nexus")
		config.NextProtos = []string{"h2"}
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true}}
		defer client.CloseIdleConnections()
		for path, status := range map[string]int{
			"/admin/users": 403, "/admin//": 403, "/%2e/admin": 403, "/ADMIN": 403, `/x\..\admin`: 403, "/x/../admin": 403,
			"/admin%2fusers": 400, "/admin%5cusers": 400, "/public": 200,
		} {
			r, err := client.Do((&http.Request{
				Method: "GET", Host: "lake_service",
				URL: &url.URL{Scheme: "https", Host: lake.Inbound(), Opaque: path},
			}).WithContext(t.Context()))
			if err != nil {
				t.Errorf("%s: %v", path, err)
				continue
			}
			_ = r.Body.Close()
			if r.StatusCode != status || r.ProtoMajor != 2 {
				t.Errorf("%s: %d over %s, want %d over HTTP/2", path, r.StatusCode, r.Proto, status)
			}
		}
	})

	t.Run("through the caller's sidecar", func(t *testing.T) {
		for path, status := range map[string]int{
			"/admin/users": 403, "//admin/users": 403, "/./admin": 403, "/%2e/admin": 403, "/ADMIN": 403,
			"/admin%2Fusers": 400, "/admin%5cusers": 400, "/public": 200,
		} {
			r, err := traffic.Raw(t.Context(), nexus.Outbound(), traffic.Request{Host: "lake_service", Path: path})
			if err != nil || r.Status != status {
				t.Errorf("%s: %s, %v; want %d", path, r, err, status)
			}
		}
	})

	// The 403s were the policies', by name, and not an accident.
	stats := m.Stats("lake-1")
	for _, name := range []string{"http.inbound.rbac.deny.policy.no-admin.denied", "http.inbound.rbac.deny.policy.no-delete.denied"} {
		if stats[name] == 0 {
			t.Errorf("%s is 0: %v", name, stats.Prefix("http.inbound.rbac"))
		}
	}
}
