package e2e

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"datapunk.dev/controlplane/e2e/app"
	"datapunk.dev/controlplane/e2e/harness"
	"datapunk.dev/controlplane/e2e/run"
	"datapunk.dev/controlplane/e2e/traffic"
)

// still are statistics that move when a listener is changed or a connection is
// closed by the server. No policy may move them.
func still(t *testing.T, stats run.Stats) run.Stats {
	t.Helper()
	out := make(run.Stats)
	for name, n := range stats {
		switch {
		case strings.HasPrefix(name, "cluster.local_app"):
			// Connections to the application are closed whenever they are idle.
		case name == "listener_manager.listener_added", name == "listener_manager.listener_modified",
			name == "listener_manager.listener_removed", name == "listener_manager.listener_in_place_updated",
			name == "listener_manager.lds.update_success", name == "listener_manager.total_listeners_draining",
			name == "listener_manager.total_filter_chains_draining", name == "cluster_manager.cds.update_success",
			strings.HasSuffix(name, ".downstream_cx_drain_close"), name == "http.inbound.downstream_cx_destroy",
			name == "http.outbound.downstream_cx_destroy", strings.HasSuffix(name, ".upstream_cx_destroy"),
			strings.HasSuffix(name, ".upstream_cx_close_notify"), strings.HasSuffix(name, ".bind_errors"):
			out[name] = n
		}
	}
	if len(out) < 10 {
		t.Fatalf("the statistics have other names now: %v", out)
	}
	return out
}

// untouched returns the versions of a sidecar's resources but those of a type.
func untouched(m *harness.Mesh, who, but string) map[string]string {
	versions := m.Dump(who).Versions()
	maps.DeleteFunc(versions, func(name, _ string) bool { return strings.HasPrefix(name, but+" ") })
	return versions
}

// acknowledged waits until a sidecar has acknowledged a version of a type that
// is not the one before, and returns it.
func acknowledged(t *testing.T, m *harness.Mesh, node, typ, before string) string {
	t.Helper()
	var version string
	harness.Eventually(t, node+" has a new "+typ, 10*time.Second, func() error {
		p := m.Proxies()[node]
		version = p.Types[typ].Acknowledged
		if version == before {
			return fmt.Errorf("still %s", before)
		}
		return p.Synced()
	})
	return version
}

// pushed returns how many responses of each type were sent since.
func pushed(t *testing.T, m *harness.Mesh, before map[string]int) map[string]int {
	t.Helper()
	out := pushes(t, m)
	for typ := range out {
		if out[typ] -= before[typ]; out[typ] == 0 {
			delete(out, typ)
		}
	}
	return out
}

func TestPolicyEditUnderLoadClosesNoConnectionAndHoldsOnKeptOnesAtOnce(t *testing.T) {
	noReports := `        - {name: no-reports, action: DENY, sources: [nexus], destinations: [lake_service], paths: ["/reports/*"]}
`
	m := harness.Start(t, harness.Options{Overlay: withPolicies(admitTheMesh)})
	lake := m.Add(harness.Spec{Service: "lake_service", ID: "lake-1"})
	m.Add(harness.Spec{Service: "nexus", ID: "nexus-1"})
	m.Ready()

	// Each worker always has a request under way, and so a connection of its own.
	const workers = 8
	lake.App.Behave(app.Behavior{Delay: 25 * time.Millisecond})
	load := m.Load("nexus-1", "lake_service", traffic.Load{Request: traffic.Request{Path: "/public"}, Concurrency: workers})
	kept := m.Client("nexus-1")
	if r := m.Call("nexus-1", "lake_service", "/reports/1"); r.Status != 200 {
		t.Fatalf("before the edit: %s", r)
	}
	harness.Eventually(t, "each worker of the load has its connection", 5*time.Second, func() error {
		if n := load.Snapshot().Dials; n < workers {
			return fmt.Errorf("%d of %d", n, workers)
		}
		return nil
	})
	callee, caller := still(t, m.Stats("lake-1")), still(t, m.Stats("nexus-1"))
	calleeHas, callerHas := untouched(m, "lake-1", "route"), untouched(m, "nexus-1", "none")
	sent, version := pushes(t, m), m.Proxies()["lake-1"].Types["route"].Acknowledged
	loadDials, dials := load.Snapshot().Dials, kept.Dials()

	for i := range 6 {
		policies, want := admitTheMesh+noReports, 403
		if i%2 == 1 {
			policies, want = admitTheMesh, 200
		}
		m.Edit(withPolicies(policies))
		version = acknowledged(t, m, "lake-1", "route", version)
		// The very next request.
		if r := m.Call("nexus-1", "lake_service", "/reports/1"); r.Status != want {
			t.Errorf("edit %d: %s; want %d", i+1, r, want)
		}
	}

	if n := kept.Dials(); n != dials {
		t.Errorf("the kept connection was closed: %d connections, %d before", n, dials)
	}
	if n := load.Snapshot().Dials; n != loadDials {
		t.Errorf("connections of the load were closed: %d, %d before", n, loadDials)
	}
	if got := pushed(t, m, sent); !maps.Equal(got, map[string]int{"route": 6}) {
		t.Errorf("six edits sent %v, want six route configurations", got)
	}
	for who, before := range map[string]run.Stats{"lake-1": callee, "nexus-1": caller} {
		if after := still(t, m.Stats(who)); !maps.Equal(before, after) {
			t.Errorf("%s: before\n%v\nafter\n%v", who, before, after)
		}
	}
	if after := untouched(m, "lake-1", "route"); !maps.Equal(calleeHas, after) {
		t.Errorf("lake-1: before\n%v\nafter\n%v", calleeHas, after)
	}
	if after := untouched(m, "nexus-1", "none"); !maps.Equal(callerHas, after) {
		t.Errorf("nexus-1: before\n%v\nafter\n%v", callerHas, after)
	}
	if r := load.Stop(); r.Failed() > 0 || r.Requests < 100 {
		t.Errorf("load: %s", r)
	}
}

const banner = "220 bank ready\r\n"

// bankMesh is a TCP service that speaks first, and two services that have a
// port to it.
func bankMesh(t *testing.T, policies string) (m *harness.Mesh, ports map[string]string, overlay func(policies string) string) {
	t.Helper()
	reportsPort, nexusPort := harness.Port(t), harness.Port(t)
	ports = map[string]string{
		"nexus":   "127.0.0.1:" + strconv.Itoa(nexusPort),
		"reports": "127.0.0.1:" + strconv.Itoa(reportsPort),
	}
	overlay = func(policies string) string {
		return withPolicies(policies) + fmt.Sprintf(`  services:
    bank: {protocol: tcp}
    nexus: {upstreams: [{service: bank, local_bind_port: %d}]}
    reports: {upstreams: [{service: bank, local_bind_port: %d}]}
`, nexusPort, reportsPort)
	}
	m = harness.Start(t, harness.Options{Overlay: overlay(policies)})
	m.Add(harness.Spec{Service: "bank", ID: "bank-1", SpeaksTCP: true, Banner: banner})
	m.Add(harness.Spec{Service: "nexus", ID: "nexus-1", Scoped: true})
	m.Add(harness.Spec{Service: "reports", ID: "reports-1", Scoped: true})
	m.Ready()
	return m, ports, overlay
}

const (
	nexusToBank   = "        - {name: nexus-to-bank, action: ALLOW, sources: [nexus], destinations: [bank]}\n"
	reportsToBank = "        - {name: reports-to-bank, action: ALLOW, sources: [reports], destinations: [bank]}\n"
)

// listen bounds how long a caller waits for a byte that must not come.
const listen = 2 * time.Second

func TestTCPCallerThatIsNotAdmittedGetsNotOneByteFromAServerThatSpeaksFirst(t *testing.T) {
	m, ports, _ := bankMesh(t, nexusToBank)
	bank := m.Sidecar("bank-1")
	ours := meshAuthority(t, m)
	foreign := foreignAuthority(t, ours)

	for name, hear := range map[string]func() (string, error){
		"through its sidecar": func() (string, error) { return traffic.Hear(t.Context(), ports["reports"], listen) },
		"itself": func() (string, error) {
			return hearTLS(t.Context(), bank.Inbound(), ours.caller(ours.issue(t, []string{meshID("reports")})), listen)
		},
		"without a certificate": func() (string, error) {
			return hearTLS(t.Context(), bank.Inbound(), ours.caller(nil), listen)
		},
		"by a foreign authority": func() (string, error) {
			return hearTLS(t.Context(), bank.Inbound(), ours.caller(foreign.issue(t, []string{meshID("nexus")})), listen)
		},
		"of another trust domain": func() (string, error) {
			return hearTLS(t.Context(), bank.Inbound(), ours.caller(ours.issue(t, []string{"spiffe://other/nexus"})), listen)
		},
		"with a longer name": func() (string, error) {
			return hearTLS(t.Context(), bank.Inbound(), ours.caller(ours.issue(t, []string{meshID("nexus2")})), listen)
		},
		"in plaintext": func() (string, error) { return traffic.Hear(t.Context(), bank.Inbound(), 200*time.Millisecond) },
	} {
		t.Run(name, func(t *testing.T) {
			began := time.Now()
			heard, err := hear()
			if heard != "" {
				t.Errorf("heard %q", heard)
			}
			// Closed, and not only left to wait; in plaintext the sidecar waits for
			// a handshake that does not come.
			if took := time.Since(began); name != "in plaintext" && took >= listen {
				t.Errorf("the connection was left open: %v after %s", err, took)
			}
		})
	}
	if n := bank.TCP.Accepted(); n != 0 {
		t.Errorf("the server saw %d connections of callers that are not admitted", n)
	}

	t.Run("an admitted one gets the banner", func(t *testing.T) {
		if heard, err := traffic.Hear(t.Context(), ports["nexus"], 500*time.Millisecond); heard != banner {
			t.Errorf("through its sidecar: heard %q, %v", heard, err)
		}
		if heard, err := hearTLS(t.Context(), bank.Inbound(), ours.caller(ours.issue(t, []string{meshID("nexus")})), 500*time.Millisecond); heard != banner || err != nil {
			t.Errorf("itself: heard %q, %v", heard, err)
		}
		if back, err := traffic.Echo(t.Context(), ports["nexus"], "balance?", len(banner)); back != "balance?" {
			t.Errorf("echo %q, %v", back, err)
		}
	})
}

func TestPolicyEditRemovesATCPCallerByOneSecretAndNoListenerMoves(t *testing.T) {
	m, ports, overlay := bankMesh(t, nexusToBank)
	hear := func(caller string) string {
		t.Helper()
		heard, err := traffic.Hear(t.Context(), ports[caller], 500*time.Millisecond)
		noError(t, err)
		return heard
	}
	if got := hear("nexus"); got != banner {
		t.Fatalf("nexus heard %q", got)
	}
	// docs/security.md: an open connection outlives the edit.
	kept, err := net.Dial("tcp", ports["nexus"])
	noError(t, err)
	t.Cleanup(func() { _ = kept.Close() })
	keptReader := bufio.NewReader(kept)
	if line, err := keptReader.ReadString('\n'); line != banner {
		t.Fatalf("kept connection: %q, %v", line, err)
	}

	stats, versions, sent := still(t, m.Stats("bank-1")), untouched(m, "bank-1", "secret"), pushes(t, m)
	delete(stats, "cluster.local_app.upstream_cx_destroy") // each connection here ends
	version := m.Proxies()["bank-1"].Types["secret"].Acknowledged
	m.Edit(overlay(reportsToBank))
	acknowledged(t, m, "bank-1", "secret", version)

	if got := hear("nexus"); got != "" {
		t.Errorf("nexus was removed and heard %q", got)
	}
	if got := hear("reports"); got != banner {
		t.Errorf("reports was admitted and heard %q", got)
	}
	if got := pushed(t, m, sent); !maps.Equal(got, map[string]int{"secret": 1}) {
		t.Errorf("the edit sent %v, want one secret", got)
	}
	after := still(t, m.Stats("bank-1"))
	delete(after, "cluster.local_app.upstream_cx_destroy")
	if !maps.Equal(stats, after) {
		t.Errorf("before\n%v\nafter\n%v", stats, after)
	}
	if now := untouched(m, "bank-1", "secret"); !maps.Equal(versions, now) {
		t.Errorf("before\n%v\nafter\n%v", versions, now)
	}
	_, err = io.WriteString(kept, "balance?\n")
	noError(t, err)
	noError(t, kept.SetReadDeadline(time.Now().Add(5*time.Second)))
	if line, err := keptReader.ReadString('\n'); line != "balance?\n" {
		t.Errorf("the kept connection says %q, %v", line, err)
	}

	// Nobody admitted is nobody, not everybody.
	version = m.Proxies()["bank-1"].Types["secret"].Acknowledged
	m.Edit(overlay("        - {name: elsewhere, action: ALLOW, sources: [nexus], destinations: [nexus]}\n"))
	acknowledged(t, m, "bank-1", "secret", version)
	for caller := range ports {
		if got := hear(caller); got != "" {
			t.Errorf("with nobody admitted, %s heard %q", caller, got)
		}
	}
}
