package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"datapunk.dev/controlplane/e2e/app"
	"datapunk.dev/controlplane/e2e/harness"
	"datapunk.dev/controlplane/e2e/traffic"
)

const ofNexus, ofForge = "service=lake_service caller=spiffe://shop/nexus", "service=lake_service caller=spiffe://shop/forge"

// TestAGlobalLimitIsOfAllInstances: a server counts for all of them, by the certificate
// of the caller. An edit that turns it on, or changes it, cuts no connection; a server
// that is gone costs no request, unless the file says so.
func TestAGlobalLimitIsOfAllInstances(t *testing.T) {
	global := example(t, "global_limits")
	without := strings.Replace(global, "lake_service: {per: global}", "lake_service: {mode: off}", 1)
	m := harness.Start(t, harness.Options{Overlay: without})
	m.Add(harness.Spec{Service: "nexus", ID: caller})
	m.Add(harness.Spec{Service: "forge", ID: "forge-1"})
	m.Add(harness.Spec{Service: "lake_service", ID: "lake-1"})
	m.Add(harness.Spec{Service: "lake_service", ID: "lake-2"})
	sidecar := m.Add(harness.Spec{Service: "limits", ID: "limits-1", NoApp: true})
	server := harness.StartLimits(t, "127.0.0.1:"+strconv.Itoa(sidecar.AppPort), 5)
	m.Ready()
	if n := passed(t, m, caller, 20, nil); n != 20 {
		t.Errorf("without a limit %d of 20 passed", n)
	}
	listener := m.Resource("lake-1", "listener", "inbound").Updated
	dials := m.Client(caller).Dials()
	becomes := func(what, mesh string, status int) {
		t.Helper()
		m.Edit(mesh)
		harness.Eventually(t, what, 15*time.Second, func() error {
			for range 20 {
				if r := m.Do(caller, traffic.Request{Host: "lake_service"}); r.Status == status {
					return nil
				}
			}
			return fmt.Errorf("not yet")
		})
	}

	// A server that does not admit who is to ask it limits nobody.
	m.Edit(strings.Replace(global, "sources: [lake_service], destinations: [limits]", "sources: [nexus], destinations: [limits]", 1))
	const unlimited = "cluster.local_app.ratelimit.mesh.failure_mode_allowed"
	free := func() uint64 { return m.Stats("lake-1")[unlimited] + m.Stats("lake-2")[unlimited] }
	harness.Eventually(t, "nothing is limited, and that is counted", 15*time.Second, func() error {
		if n := passed(t, m, caller, 10, nil); n != 10 || server.Domain() != "" {
			t.Errorf("%d of 10 passed, and the server was asked in the domain %q", n, server.Domain())
		}
		if free() == 0 {
			return fmt.Errorf("no %s", unlimited)
		}
		return nil
	})
	becomes("the edit turns it on", global, http.StatusTooManyRequests)
	harness.Eventually(t, "both instances ask", 15*time.Second, func() error {
		server.Forget()
		passed(t, m, caller, 10, nil)
		if n := server.Asked(ofNexus); n != 10 {
			return fmt.Errorf("asked for %d of 10 requests", n)
		}
		return nil
	})
	if said := asks(m, "why", "nexus", "lake_service"); said.Code != 0 || !strings.Contains(said.Stdout, "up to as many as the server limits lets pass; more is answered 429 (MC3017)") {
		t.Errorf("why says: %s%s", said.Stdout, said.Stderr)
	}
	server.Forget()
	if n := passed(t, m, caller, 20, nil); n != 5 {
		t.Errorf("of nexus %d passed, want 5", n)
	}
	if n := passed(t, m, "forge-1", 20, http.Header{"X-Forwarded-Client-Cert": {"URI=spiffe://shop/nexus"}, "X-Caller": {"nexus"}}); n != 5 {
		t.Errorf("of forge, which says that it is nexus, %d passed, want 5", n)
	}
	if n := server.Asked(ofForge); n != 20 || server.Domain() != "shop" || server.Asked("service=lake_service path=/") != 40 {
		t.Errorf("asked for %d requests of forge, %d of the path, in the domain %s", n, server.Asked("service=lake_service path=/"), server.Domain())
	}
	r := m.Do(caller, traffic.Request{Host: "lake_service", Path: "/x?y"})
	if r.Status != http.StatusTooManyRequests || r.Header.Get("x-mesh-error") != "MC3017" || !strings.Contains(r.Body, "the rate limit of lake_service is used up (MC3017)") || r.Header.Get("retry-after") != "60" {
		t.Errorf("refused with %s %v", r, r.Header)
	}
	if n := server.Asked(ofNexus + " path=/x"); n != 1 {
		t.Errorf("asked for the path %d times", n)
	}
	_, err := app.CallUnary(t.Context(), dialGRPC(t, m.Sidecar(caller).Outbound(), "lake_service"), "x")
	if s := status.Convert(err); s.Code() != codes.ResourceExhausted || !strings.Contains(s.Message(), "MC3017") {
		t.Errorf("a call of gRPC: %v", err)
	}

	took := func(what string, most time.Duration) {
		t.Helper()
		all := make([]time.Duration, 0, 50)
		for range cap(all) {
			r := m.Do(caller, traffic.Request{Host: "lake_service"})
			if r.Status != http.StatusOK {
				t.Errorf("%s: %s", what, r)
			}
			all = append(all, r.Took)
		}
		slices.Sort(all)
		t.Logf("%s: a request takes %s at the median, %s at most", what, all[len(all)/2], all[len(all)-1])
		if median := all[len(all)/2]; median > most {
			t.Errorf("%s: a request takes %s at the median", what, median)
		}
	}
	becomes("a shadow refuses nobody", strings.Replace(global, "{per: global}", "{per: global, mode: shadow}", 1), http.StatusOK)
	harness.Eventually(t, "nobody is refused", 10*time.Second, func() error {
		for range 10 {
			if r := m.Do(caller, traffic.Request{Host: "lake_service"}); r.Status != http.StatusOK || r.Header.Get("x-ratelimit-limit") != "" || r.Header.Get("x-envoy-ratelimited") != "" {
				return fmt.Errorf("%s %v", r, r.Header)
			}
		}
		return nil
	})
	took("a server that answers", 25*time.Millisecond)
	const over = "cluster.local_app.ratelimit.mesh.over_limit"
	if s := m.Stats("lake-1"); s[over] == 0 {
		t.Errorf("no %s is counted: %v", over, s)
	}

	// A server that answers nothing, and one that is gone.
	becomes("it is enforced again", global, http.StatusTooManyRequests)
	server.Hang(time.Minute)
	took("a server that hangs", 100*time.Millisecond) // 50 ms are the timeout
	hung := free()
	server.Die()
	took("a server that is dead", 25*time.Millisecond)
	if n := free() - hung; n != 50 {
		t.Errorf("%d of 50 requests are counted as without a limit", n)
	}
	becomes("a dead server denies, where the file says so", strings.Replace(global, "on_failure: allow", "on_failure: deny", 1), http.StatusServiceUnavailable)
	harness.Eventually(t, "both instances deny", 10*time.Second, func() error {
		for range 6 {
			if r := m.Do(caller, traffic.Request{Host: "lake_service"}); r.Status != http.StatusServiceUnavailable || r.Header.Get("x-mesh-error") != "MC3018" || !strings.Contains(r.Body, "MC3018") {
				return fmt.Errorf("%s %v", r, r.Header)
			}
		}
		return nil
	})
	server.Hang(0)
	server.Forget()
	server.Serve(t)
	harness.Eventually(t, "it is back", 20*time.Second, func() error {
		if r := m.Do(caller, traffic.Request{Host: "lake_service"}); r.Status == http.StatusServiceUnavailable {
			return fmt.Errorf("%s", r)
		}
		return nil
	})

	if now := m.Resource("lake-1", "listener", "inbound").Updated; !now.Equal(listener) {
		t.Errorf("the listener was changed at %s", now)
	}
	if n := m.Client(caller).Dials(); n != dials {
		t.Errorf("the connection of the caller was cut: %d dials, %d before the edits", n, dials)
	}
}

// TestAServerOfLimitsBesideTheMesh is asked over TLS, by a root of its own; one with
// another certificate is not told anything.
func TestAServerOfLimitsBesideTheMesh(t *testing.T) {
	root, certificate := selfSigned(t)
	server := harness.StartLimits(t, "127.0.0.1:0", 5, grpc.Creds(credentials.NewServerTLSFromCert(&certificate)))
	mesh := func(root string) string {
		return `mesh:
  policies:
    rate_limit:
      server: {address: "` + server.Addr() + `", tls: {ca: "` + strings.ReplaceAll(root, "\n", `\n`) + `"}}
  services:
    lake_service: {rate_limit: {per: global, status: 503}}
`
	}
	another, _ := selfSigned(t)
	m := harness.Start(t, harness.Options{Overlay: mesh(another)})
	m.Add(harness.Spec{Service: "nexus", ID: caller})
	m.Add(harness.Spec{Service: "lake_service", ID: "lake-1"})
	m.Ready()
	if n := passed(t, m, caller, 10, nil); n != 10 || server.Domain() != "" {
		t.Errorf("%d of 10 passed a server with the certificate of somebody else, which was asked in domain %q", n, server.Domain())
	}
	m.Edit(mesh(root))
	harness.Eventually(t, "it is asked", 20*time.Second, func() error {
		if r := m.Do(caller, traffic.Request{Host: "lake_service"}); r.Status != http.StatusServiceUnavailable || r.Header.Get("x-mesh-error") != "MC3017" {
			return fmt.Errorf("%s %v", r, r.Header)
		}
		return nil
	})
}

// selfSigned is a server's certificate for this machine, and as PEM what it is checked by.
func selfSigned(t *testing.T) (root string, certificate tls.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	noError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	noError(t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
