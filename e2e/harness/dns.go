package harness

import (
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// DNS is a name server of a test: it knows what it is told, and can fall
// silent.
type DNS struct {
	conn net.PacketConn

	mu      sync.Mutex
	records map[string][]netip.Addr
	silent  bool
	asked   int
}

// StartDNS starts a name server without names on loopback.
func StartDNS(t testing.TB) *DNS {
	t.Helper()
	conn, err := (&net.ListenConfig{}).ListenPacket(t.Context(), "udp", "127.0.0.1:0")
	must(t, err)
	d := &DNS{conn: conn, records: make(map[string][]netip.Addr)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		d.serve()
	}()
	t.Cleanup(func() {
		_ = conn.Close()
		<-done
	})
	return d
}

// Set makes a name have these IPv4 addresses; none: it does not exist.
func (d *DNS) Set(name string, addresses ...string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.records[name] = nil
	for _, a := range addresses {
		d.records[name] = append(d.records[name], netip.MustParseAddr(a))
	}
}

// Silence has the server answer nothing, or answer again.
func (d *DNS) Silence(on bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.silent = on
}

// Asked returns how many questions came.
func (d *DNS) Asked() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.asked
}

// Bootstrap is for [Spec]: the Envoy asks this server alone.
func (d *DNS) Bootstrap(_ *Sidecar, printed string) string {
	at := d.conn.LocalAddr().(*net.UDPAddr)
	return printed + fmt.Sprintf(`
typed_dns_resolver_config:
  name: envoy.network.dns_resolver.cares
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig
    resolvers: [{socket_address: {address: 127.0.0.1, port_value: %d}}]
    query_timeout_seconds: 1
    query_tries: 1
`, at.Port)
}

func (d *DNS) serve() {
	buf := make([]byte, 1500)
	for {
		n, from, err := d.conn.ReadFrom(buf)
		if err != nil {
			return // closed
		}
		if answer := d.answer(buf[:n]); answer != nil {
			_, _ = d.conn.WriteTo(answer, from)
		}
	}
}

// answer is the answer to a question, nil for none. Records may be kept for a
// second.
func (d *DNS) answer(question []byte) []byte {
	var m dnsmessage.Message
	if err := m.Unpack(question); err != nil || len(m.Questions) != 1 {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.asked++
	if d.silent {
		return nil
	}
	q := m.Questions[0]
	name := q.Name.String()
	addresses := d.records[name[:len(name)-1]]
	m.Response, m.Authoritative, m.Additionals = true, true, nil
	if len(addresses) == 0 {
		m.RCode = dnsmessage.RCodeNameError
	}
	for _, a := range addresses {
		if q.Type == dnsmessage.TypeA {
			m.Answers = append(m.Answers, dnsmessage.Resource{
				Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 1},
				Body:   &dnsmessage.AResource{A: a.As4()},
			})
		}
	}
	packed, err := m.Pack()
	if err != nil {
		return nil
	}
	return packed
}
