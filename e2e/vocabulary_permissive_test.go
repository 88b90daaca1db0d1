package e2e

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"datapunk.dev/controlplane/e2e/app"
	"datapunk.dev/controlplane/e2e/harness"
	"datapunk.dev/controlplane/e2e/run"
	"datapunk.dev/controlplane/e2e/traffic"
)

// transition is the file of a mesh on its way to mTLS: a mode (off, permissive
// or strict) and the authorization of one moment. bank and ledger speak TCP.
type transition struct{ bankPort, ledgerPort int }

func newTransition(t *testing.T) transition {
	t.Helper()
	return transition{bankPort: harness.Port(t), ledgerPort: harness.Port(t)}
}

func (p transition) at(mode, authorization string) string {
	mtls := "{mode: " + mode + ", trust_domain: datapunk}"
	if mode == "off" {
		mtls = "{enabled: false, trust_domain: datapunk}"
	}
	return quietMesh + fmt.Sprintf(`  services:
    bank: {protocol: tcp}
    ledger: {protocol: tcp}
    nexus:
      upstreams: [lake_service, legacy, {service: bank, local_bind_port: %d}, {service: ledger, local_bind_port: %d}]
  security:
    mtls: %s
    authorization: %s
`, p.bankPort, p.ledgerPort, mtls, authorization)
}

func local(port int) string { return "127.0.0.1:" + strconv.Itoa(port) }

const (
	anybody     = "{enabled: false}"
	nexusAlone  = `{enabled: true, policies: [{name: nexus-alone, action: ALLOW, sources: [nexus]}]}`
	notReports  = `{enabled: true, policies: [{name: not-reports, action: ALLOW, not_sources: [reports]}]}`
	byDefault   = `{enabled: true, default_action: ALLOW, policies: [{name: no-reports, action: DENY, sources: [reports]}]}`
	clientCerts = "x-forwarded-client-cert"
)

// chains is how many kinds of callers an inbound listener serves.
func chains(m *harness.Mesh, node string) (int, error) {
	dump, err := m.Sidecar(node).Envoy.ConfigDump()
	if err != nil {
		return 0, err
	}
	inbound := dump.Get("listener", "inbound")
	if inbound == nil {
		return 0, fmt.Errorf("%s has no inbound listener", node)
	}
	list, _ := inbound.Field("filter_chains").([]any)
	return len(list), nil
}

// TestOneInboundServesPlaintextAndMTLSCallersWhilePermissive, and what it does
// not know of a caller it does not make up.
func TestOneInboundServesPlaintextAndMTLSCallersWhilePermissive(t *testing.T) {
	file := newTransition(t)
	m := harness.Start(t, harness.Options{Overlay: file.at("permissive", anybody)})
	lake := m.Add(harness.Spec{Service: "lake_service", ID: "lake-1"})
	bank := m.Add(harness.Spec{Service: "bank", ID: "bank-1", SpeaksTCP: true, Banner: banner})
	m.Add(harness.Spec{Service: "nexus", ID: "nexus-1", Unregistered: true, Scoped: true})
	legacy, err := app.Start("legacy", "legacy-1", 0)
	noError(t, err)
	t.Cleanup(legacy.Die)
	outside, err := app.Start("lake_service", "lake-outside", 0)
	noError(t, err)
	t.Cleanup(outside.Die)
	ledger, err := app.StartTCP(0, banner)
	noError(t, err)
	t.Cleanup(ledger.Die)
	noError(t, m.Registry.Register(run.Instance{Service: "legacy", ID: "legacy-1", Port: legacy.Port()}))
	noError(t, m.Registry.Register(run.Instance{Service: "ledger", ID: "ledger-1", Port: ledger.Port()}))
	m.Ready()
	plaintext := func(r traffic.Request) (traffic.Response, error) {
		r.Host = "lake_service"
		return traffic.Raw(t.Context(), lake.Inbound(), r)
	}

	t.Run("HTTP", func(t *testing.T) {
		secure := m.Call("nexus-1", "lake_service", "/")
		if xfcc := secure.Reply.Headers[clientCerts]; secure.Status != 200 || !strings.Contains(xfcc, "URI="+meshID("nexus")) {
			t.Errorf("a sidecar: %s, %s %q", secure, clientCerts, xfcc)
		}
		claims := http.Header{"X-Forwarded-Client-Cert": {"By=" + meshID("lake_service") + ";URI=" + meshID("nexus")}}
		plain, err := plaintext(traffic.Request{Header: claims})
		if err != nil || plain.Status != 200 || plain.Reply.Instance != "lake-1" {
			t.Errorf("a caller in plaintext: %s, %v", plain, err)
		}
		if xfcc, claimed := plain.Reply.Headers[clientCerts]; claimed {
			t.Errorf("a caller in plaintext passes for %q", xfcc)
		}
		http2 := traffic.NewHTTP2Client(lake.Inbound())
		defer http2.Close()
		if r, err := http2.Get(t.Context(), "lake_service", "/"); err != nil || r.Status != 200 || r.Protocol != "HTTP/2.0" {
			t.Errorf("a caller in plaintext over HTTP/2: %s, %v", r, err)
		}
		if n := inboundStat(t, m, lake, "ssl.handshake"); n != 1 {
			t.Errorf("%d handshakes at lake-1, want the sidecar's", n)
		}
	})

	t.Run("TCP", func(t *testing.T) {
		for who, addr := range map[string]string{"a sidecar": local(file.bankPort), "a caller in plaintext": bank.Inbound()} {
			if back, err := traffic.Echo(t.Context(), addr, "what is the balance?", len(banner)); err != nil || back != "what is the balance?" {
				t.Errorf("%s: %q, %v", who, back, err)
			}
		}
		// A server that speaks first is heard by a caller who says nothing, once
		// it is clear that no handshake comes.
		for who, addr := range map[string]string{"a sidecar": local(file.bankPort), "a caller in plaintext": bank.Inbound()} {
			if _, err := traffic.Echo(harness.Context(t, 5*time.Second), addr, "", len(banner)); err != nil {
				t.Errorf("%s that is silent: %v", who, err)
			}
		}
		if n := inboundStat(t, m, bank, "ssl.handshake"); n != 2 {
			t.Errorf("%d handshakes at bank-1, want the sidecar's two", n)
		}
	})

	t.Run("an instance without mesh_port is called in plaintext", func(t *testing.T) {
		inRotation(t, m, "legacy", "legacy-1")
		if r := m.Call("nexus-1", "legacy", "/"); r.Status != 200 || r.Reply.Instance != "legacy-1" || r.Reply.Protocol != "HTTP/1.1" {
			t.Errorf("%s in %s", r, r.Reply.Protocol)
		}
		if back, err := traffic.Echo(t.Context(), local(file.ledgerPort), "what is the sum?", len(banner)); err != nil || back != "what is the sum?" {
			t.Errorf("TCP: %q, %v", back, err)
		}
		stats := m.Stats("nexus-1")
		for _, service := range []string{"legacy", "ledger"} {
			if total, tls := stats["cluster."+service+".upstream_cx_total"], stats["cluster."+service+".ssl.handshake"]; total == 0 || tls != 0 {
				t.Errorf("%s: %d connections, %d with TLS", service, total, tls)
			}
		}
	})

	t.Run("of one service, each instance is called as it can be", func(t *testing.T) {
		noError(t, m.Registry.Register(run.Instance{Service: "lake_service", ID: "lake-outside", Port: outside.Port()}))
		inRotation(t, m, "lake_service", "lake-1", "lake-outside")
		r := traffic.Load{Addr: m.Sidecar("nexus-1").Outbound(), Request: traffic.Request{Host: "lake_service"}, Requests: 40}.Do(t.Context())
		if r.Failed() > 0 || r.Instances["lake-1"] == 0 || r.Instances["lake-outside"] == 0 {
			t.Errorf("%s", r)
		}
		if tls := m.Stats("nexus-1")["cluster.lake_service.ssl.handshake"]; tls == 0 {
			t.Error("lake-1 is called in plaintext")
		}
	})

	for _, c := range []struct {
		name, authorization string
		plaintext           int // the answer to a caller in plaintext
	}{
		{"an ALLOW by principal denies a caller in plaintext", nexusAlone, 403},
		{"default_action ALLOW admits a caller in plaintext", byDefault, 200},
		{"an ALLOW of all but one denies a caller in plaintext", notReports, 403},
	} {
		t.Run(c.name, func(t *testing.T) {
			m.Edit(file.at("permissive", c.authorization))
			harness.Eventually(t, "the policy holds", 10*time.Second, func() error {
				if r, err := plaintext(traffic.Request{}); err != nil || r.Status != c.plaintext {
					return fmt.Errorf("HTTP: %s, %s; want %d", r, fmt.Sprint(err), c.plaintext)
				}
				if back, err := traffic.Echo(t.Context(), bank.Inbound(), "what is the sum?", len(banner)); (back == "what is the sum?") != (c.plaintext == 200) {
					return fmt.Errorf("TCP: %q, %s", back, fmt.Sprint(err))
				}
				return nil
			})
			if r := m.Call("nexus-1", "lake_service", "/"); r.Status != 200 {
				t.Errorf("nexus: %s", r)
			}
			if back, err := traffic.Echo(t.Context(), local(file.bankPort), "what is the balance?", len(banner)); back != "what is the balance?" {
				t.Errorf("nexus over TCP: %q, %v", back, err)
			}
		})
	}
	t.Run("a caller in plaintext that is denied and silent gets not one byte", func(t *testing.T) {
		harness.Eventually(t, "bank-1 refuses it", 10*time.Second, func() error {
			if n, err := chains(m, "bank-1"); err != nil || n != 1 {
				return fmt.Errorf("it serves %d kinds of callers, %s", n, fmt.Sprint(err))
			}
			return nil
		})
		seen, began := bank.TCP.Accepted(), time.Now()
		if heard, err := traffic.Hear(t.Context(), bank.Inbound(), 5*time.Second); heard != "" || time.Since(began) >= 5*time.Second {
			t.Errorf("heard %q, %v, after %s", heard, err, time.Since(began))
		}
		if n := bank.TCP.Accepted(); n != seen {
			t.Error("the server saw it")
		}
	})
}

// ring returns callers of a TCP service that connect, ask and leave, until it
// is stopped; it has the number of those that got an answer and what failed.
type ring struct {
	stop    chan struct{}
	done    chan struct{}
	answers int
	failed  []string
}

func startRing(t *testing.T, addr string) *ring {
	t.Helper()
	r := &ring{stop: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(r.done)
		for {
			select {
			case <-r.stop:
				return
			case <-time.After(5 * time.Millisecond):
			}
			if back, err := traffic.Echo(t.Context(), addr, "what is the sum?", len(banner)); err != nil || back != "what is the sum?" {
				r.failed = append(r.failed, fmt.Sprintf("%s %q, %v", time.Now().Format("15:04:05.000"), back, err))
				continue
			}
			r.answers++
		}
	}()
	t.Cleanup(r.end)
	return r
}

func (r *ring) end() {
	select {
	case <-r.stop:
	default:
		close(r.stop)
	}
	<-r.done
}

// modeMesh is nexus, which calls lake_service by HTTP and bank by TCP without a
// pause. Its mode of mTLS changes with each step, and while there is mTLS nobody
// but nexus is admitted.
type modeMesh struct {
	*harness.Mesh
	t    *testing.T
	file transition
	lake *harness.Sidecar
	bank *harness.Sidecar
	http *traffic.Running
	tcp  *ring
}

func startModeMesh(t *testing.T, mode string) *modeMesh {
	t.Helper()
	file := newTransition(t)
	m := &modeMesh{Mesh: harness.Start(t, harness.Options{Overlay: file.at(mode, admittedWith(mode))}), t: t, file: file}
	m.lake = m.Add(harness.Spec{Service: "lake_service", ID: "lake-1"})
	m.bank = m.Add(harness.Spec{Service: "bank", ID: "bank-1", SpeaksTCP: true, Banner: banner})
	m.Add(harness.Spec{Service: "nexus", ID: "nexus-1", Unregistered: true, Scoped: true})
	m.Ready()
	m.http = m.Load("nexus-1", "lake_service", traffic.Load{Concurrency: 6, Rate: 300})
	m.tcp = startRing(t, local(file.bankPort))
	return m
}

func admittedWith(mode string) string {
	if mode == "off" {
		return anybody
	}
	return nexusAlone
}

// become edits the mode and waits until both sides of both protocols are there.
func (m *modeMesh) become(mode string) {
	m.t.Helper()
	count := func() (http, tcp uint64) {
		stats := m.Stats("nexus-1")
		return stats["cluster.lake_service.ssl.handshake"], stats["cluster.bank.ssl.handshake"]
	}
	http, tcp := count()
	m.Edit(m.file.at(mode, admittedWith(mode)))
	harness.Eventually(m.t, "mTLS is "+mode, 10*time.Second, func() error {
		if n, err := chains(m.Mesh, "lake-1"); err != nil || n != map[string]int{"off": 1, "permissive": 2, "strict": 1}[mode] {
			return fmt.Errorf("lake-1 serves %d kinds of callers, %s", n, fmt.Sprint(err))
		}
		// A caller in plaintext, each time with a connection of its own.
		r, err := traffic.Raw(m.t.Context(), m.lake.Inbound(), traffic.Request{Host: "lake_service"})
		if (err != nil) != (mode == "strict") || r.Status != map[string]int{"off": 200, "permissive": 403}[mode] {
			return fmt.Errorf("a caller in plaintext: %s, %s", r, fmt.Sprint(err))
		}
		if back, err := traffic.Echo(m.t.Context(), m.bank.Inbound(), "what is the sum?", len(banner)); (err == nil) != (mode == "off") {
			return fmt.Errorf("one over TCP: %q, %s", back, fmt.Sprint(err))
		}
		if h, c := count(); mode != "off" && (h == http || c == tcp) {
			return fmt.Errorf("nexus-1 has not dialed anew: %d and %d handshakes before, %d and %d now", http, tcp, h, c)
		}
		known := strings.Contains(m.Call("nexus-1", "lake_service", "/").Reply.Headers[clientCerts], "URI="+meshID("nexus"))
		if known != (mode != "off") {
			return fmt.Errorf("lake-1 knows its caller: %t", known)
		}
		for node, p := range m.Proxies() {
			if err := p.Synced(); err != nil {
				return fmt.Errorf("%s: %w", node, err)
			}
		}
		return nil
	})
	passes(m.t, m.http, 60)
}

// end checks that nothing failed.
func (m *modeMesh) end() {
	m.t.Helper()
	m.tcp.end()
	if len(m.tcp.failed) > 0 || m.tcp.answers < 50 {
		m.t.Errorf("TCP: %d answers, %d failures: %s", m.tcp.answers, len(m.tcp.failed), strings.Join(m.tcp.failed, "; "))
	}
	if r := m.http.Stop(); r.Failed() > 0 {
		m.t.Errorf("%s", r)
	}
}

// TestStrictToPermissiveAndBackUnderLoadFailsNoRequestBetweenSidecars.
func TestStrictToPermissiveAndBackUnderLoadFailsNoRequestBetweenSidecars(t *testing.T) {
	m := startModeMesh(t, "strict")
	for _, mode := range []string{"permissive", "strict", "permissive", "strict"} {
		m.become(mode)
	}
	m.end()
}

// TestMTLSAndAuthorizationComeAndGoUnderLoadAndNoRequestBetweenSidecarsFails: by
// way of permissive, and at one go.
func TestMTLSAndAuthorizationComeAndGoUnderLoadAndNoRequestBetweenSidecarsFails(t *testing.T) {
	m := startModeMesh(t, "off")
	for _, mode := range []string{"permissive", "strict", "permissive", "off", "strict", "off"} {
		m.become(mode)
	}
	m.end()
}
