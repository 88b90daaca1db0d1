package e2e

import (
	"context"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"log"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"datapunk.dev/controlplane/e2e/app"
	"datapunk.dev/controlplane/e2e/harness"
	"datapunk.dev/controlplane/e2e/run"
	"datapunk.dev/controlplane/e2e/traffic"
	"datapunk.dev/controlplane/internal/tool"
)

// witness is an instance of a service whose sidecar is no Envoy: a TLS server
// that writes down the certificates that its callers show.
type witness struct {
	mu      sync.Mutex
	serials []string // of callers, one a connection
}

// startWitness serves HTTP/2 over TLS as the service, one request a connection.
func startWitness(t *testing.T, a *authority, service string) (w *witness, port int) {
	t.Helper()
	w = &witness{}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	noError(t, err)
	server := &http.Server{
		ReadHeaderTimeout: 5 * time.Second,
		ErrorLog:          log.New(testLog{t}, "", 0),
		TLSConfig: &tls.Config{
			MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"}, ClientAuth: tls.RequireAnyClientCert,
			Certificates: []tls.Certificate{*a.issue(t, []string{meshID(service)})},
		},
		Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.serials = append(w.serials, hex.EncodeToString(r.TLS.PeerCertificates[0].SerialNumber.Bytes()))
		}),
	}
	server.SetKeepAlivesEnabled(false)
	serving := make(chan struct{})
	go func() { defer close(serving); _ = server.ServeTLS(l, "", "") }()
	t.Cleanup(func() { _ = server.Close(); <-serving })
	return w, l.Addr().(*net.TCPAddr).Port
}

func (w *witness) last() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.serials) == 0 {
		return ""
	}
	return w.serials[len(w.serials)-1]
}

// testLog writes a server's log to the test's.
type testLog struct{ t *testing.T }

func (l testLog) Write(p []byte) (int, error) {
	l.t.Logf("%s", p)
	return len(p), nil
}

// serialOf is the serial number of the certificate that a sidecar shows to its
// callers now.
func serialOf(ctx context.Context, s *harness.Sidecar, config *tls.Config) (string, error) {
	conn, err := dialTLS(ctx, s.Inbound(), config)
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close() }()
	return hex.EncodeToString(conn.ConnectionState().PeerCertificates[0].SerialNumber.Bytes()), nil
}

// holding returns the certificate that an Envoy holds.
func holding(t *testing.T, s *harness.Sidecar) run.Certificate {
	t.Helper()
	leaves, _, err := s.Envoy.Certs()
	noError(t, err)
	if len(leaves) != 1 || leaves[0].URI() != meshID(s.Service) {
		t.Fatalf("%s: leaves: %+v", s.ID, leaves)
	}
	return leaves[0]
}

func TestCertificatesRotateUnderLoadAndNeitherARequestNorAListenerNotices(t *testing.T) {
	t.Parallel()
	m := harness.Start(t, harness.Options{Overlay: quietMesh + "  security: {mtls: {cert_rotation: 20s, cert_ttl: 1m}}\n"})
	lake := m.Add(harness.Spec{Service: "lake_service", ID: "lake-1"})
	nexus := m.Add(harness.Spec{Service: "nexus", ID: "nexus-1"})
	ours := meshAuthority(t, m)
	seen, port := startWitness(t, ours, "stream_service")
	noError(t, m.Registry.Register(run.Instance{Service: "stream_service", ID: "stream-1", Port: port, MeshPort: port}))
	m.Ready()
	visitor := ours.caller(ours.issue(t, []string{meshID("stream_service")}))
	harness.Eventually(t, "nexus-1 calls the witness", 10*time.Second, func() error {
		if r := m.Call("nexus-1", "stream_service", "/"); r.Status != 200 {
			return fmt.Errorf("%s", r)
		}
		return nil
	})

	lake.App.Behave(app.Behavior{Delay: 10 * time.Millisecond})
	load := m.Load("nexus-1", "lake_service", traffic.Load{})
	sidecars := []*harness.Sidecar{lake, nexus}
	first := make(map[string]run.Certificate)
	versions, stats := make(map[string]map[string]string), make(map[string]run.Stats)
	moved := make(map[string]int)
	for _, s := range sidecars {
		first[s.ID] = holding(t, s)
		if life := first[s.ID].Expires.Sub(first[s.ID].From); life < time.Minute || life > 3*time.Minute {
			t.Errorf("%s: the certificate lives %s", s.ID, life)
		}
		versions[s.ID] = untouched(m, s.ID, "secret")
		moved[s.ID] = 0
	}
	harness.Eventually(t, "the load runs", 5*time.Second, func() error {
		if n := load.Snapshot().Requests; n < 20 {
			return fmt.Errorf("%d requests", n)
		}
		return nil
	})
	for _, s := range sidecars {
		stats[s.ID] = still(t, m.Stats(s.ID))
	}

	// Beyond the end of the first certificates: who still held one would fail.
	last := map[string]string{"lake-1": first["lake-1"].Serial, "nexus-1": first["nexus-1"].Serial}
	end := first["lake-1"].Expires
	if first["nexus-1"].Expires.After(end) {
		end = first["nexus-1"].Expires
	}
	harness.Eventually(t, "the first certificates have expired", 90*time.Second, func() error {
		for _, s := range sidecars {
			if serial := holding(t, s).Serial; serial != last[s.ID] {
				last[s.ID] = serial
				moved[s.ID]++
			}
		}
		if left := time.Until(end); left > -time.Second {
			return fmt.Errorf("%s left", left)
		}
		return nil
	})
	for _, s := range sidecars {
		// In 60 s, one each 15 to 20 s.
		if moved[s.ID] < 2 || moved[s.ID] > 4 {
			t.Errorf("%s changed its certificate %d times", s.ID, moved[s.ID])
		}
		if now := untouched(m, s.ID, "secret"); fmt.Sprint(now) != fmt.Sprint(versions[s.ID]) {
			t.Errorf("%s: before\n%v\nafter\n%v", s.ID, versions[s.ID], now)
		}
		now := still(t, m.Stats(s.ID))
		for _, name := range []string{
			"listener_manager.lds.update_success", "listener_manager.listener_modified", "listener_manager.listener_in_place_updated",
			"listener_manager.total_filter_chains_draining", "cluster_manager.cds.update_success", "http.inbound.downstream_cx_drain_close",
			"http.outbound.downstream_cx_drain_close", "http.outbound.downstream_cx_destroy", "cluster.lake_service.upstream_cx_destroy",
		} {
			// The call to the witness and the visits close theirs; the load's stay.
			if n, known := now[name]; !known || n != stats[s.ID][name] {
				t.Errorf("%s: %s went from %d to %d", s.ID, name, stats[s.ID][name], n)
			}
		}
	}

	// Its peers see the new one: its callers, and whom it calls. (Twice, if the
	// next one comes in between.)
	harness.Eventually(t, "lake-1 shows its callers the certificate that it holds", 3*time.Second, func() error {
		shown, err := serialOf(t.Context(), lake, visitor)
		if err != nil {
			return err
		}
		return agree(m, lake, shown, first["lake-1"].Serial)
	})
	harness.Eventually(t, "nexus-1 shows whom it calls the certificate that it holds", 3*time.Second, func() error {
		if r := m.Call("nexus-1", "stream_service", "/"); r.Status != 200 {
			return fmt.Errorf("the witness: %s", r)
		}
		return agree(m, nexus, seen.last(), first["nexus-1"].Serial)
	})
	if r := load.Stop(); r.Failed() > 0 || r.Requests < 1000 {
		t.Errorf("load: %s", r)
	}
}

// agree returns nil if a peer was shown what the Envoy holds, what the control
// plane says that it holds, and not what it held at first.
func agree(m *harness.Mesh, s *harness.Sidecar, shown, first string) error {
	leaves, _, err := s.Envoy.Certs()
	if err != nil {
		return err
	}
	held, said := "", m.Proxies()[s.ID].Certificate
	if len(leaves) == 1 {
		held = leaves[0].Serial
	}
	if said == nil || !sameSerial(held, shown) || !sameSerial(said.Serial, shown) || sameSerial(first, shown) {
		return fmt.Errorf("shown %s, held %s, first %s, /api/v1/proxies: %+v", shown, held, first, said)
	}
	return nil
}

// sameSerial compares serial numbers in hex, which some write with a zero in
// front.
func sameSerial(a, b string) bool {
	return a != "" && strings.TrimLeft(a, "0") == strings.TrimLeft(b, "0")
}

func TestRenewedTokenIsUsedAtTheNextStreamWithoutRestartingEnvoy(t *testing.T) {
	t.Parallel()
	m := harness.Start(t, harness.Options{Overlay: quietMesh})
	lake := m.Prepare(harness.Spec{Service: "lake_service", ID: "lake-1"})
	const life = 6 * time.Second
	noError(t, m.Token(t.Context(), "lake_service", "lake-1", life, lake.TokenFile))
	first, expires := tokenOf(t, lake.TokenFile), time.Now().Add(life)
	renewer, err := tool.Start(tool.Command{
		Name: "renew", Path: harness.Binary(), Dir: m.Dir,
		Args: []string{"token", "--renew", "--xds-address", m.Plane.XDSAddress(), "--ca-file", m.Plane.CAFile(), "--out", lake.TokenFile},
	})
	noError(t, err)
	t.Cleanup(func() { noError(t, renewer.Stop()) })
	m.Launch(lake)
	m.Register(lake)
	m.Add(harness.Spec{Service: "nexus", ID: "nexus-1"})
	m.Ready()
	load := m.Load("nexus-1", "lake_service", traffic.Load{Rate: 50})
	connected := m.Proxies()["lake-1"].Connected

	harness.Eventually(t, "lake-1 has a stream with a token that is not its first", 20*time.Second, func() error {
		p := m.Proxies()["lake-1"]
		if !time.Now().After(expires) || p.Connected.Before(expires.Add(-time.Second)) || !p.Connected.After(connected) {
			return fmt.Errorf("the token expires in %s; connected at %s", time.Until(expires), p.Connected)
		}
		return p.Synced()
	})
	if now := tokenOf(t, lake.TokenFile); now == first {
		t.Error("the file has the first token")
	}
	metrics := m.Metrics()
	for _, reason := range []string{"unauthenticated", "identity"} {
		if n := metrics[`controlplane_xds_refused_streams_total{reason="`+reason+`"}`]; n != 0 {
			t.Errorf("%v streams were refused: %s", n, reason)
		}
	}
	if n := m.Stats("lake-1")["server.live"]; !lake.Envoy.Running() || n != 1 {
		t.Error("the Envoy ended")
	}
	// It is served, not only connected.
	m.Edit(withPolicies(admitTheMesh + `        - {name: none, action: DENY, paths: ["/none"], destinations: [lake_service]}` + "\n"))
	harness.Eventually(t, "an edit reaches lake-1", 10*time.Second, func() error {
		if r := m.Call("nexus-1", "lake_service", "/none"); r.Status != 403 {
			return fmt.Errorf("%s", r)
		}
		return nil
	})
	if r := load.Stop(); r.Failed() > 0 {
		t.Errorf("load: %s", r)
	}
	if log := renewer.Log.String(); strings.Contains(log, strings.TrimPrefix(first, "Bearer ")) || !strings.Contains(log, "renewed the token") {
		t.Errorf("the renewer's log: %s", log)
	}
}
