package sds

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// handshake connects a client to the xDS port's TLS settings and returns what
// the client saw.
func handshake(t *testing.T, server *tls.Config, client *tls.Config) (tls.ConnectionState, error) {
	t.Helper()
	a, b := net.Pipe()
	defer a.Close() //nolint:errcheck // a pipe
	defer b.Close() //nolint:errcheck // a pipe
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn := tls.Server(b, server)
		_ = conn.Handshake()
		_, _ = conn.Read(make([]byte, 1)) // until the client has gone
	}()
	conn := tls.Client(a, client)
	err := conn.Handshake()
	state := conn.ConnectionState()
	_ = a.Close()
	<-done
	return state, err
}

func anyServer(protocols ...string) *tls.Config {
	return &tls.Config{InsecureSkipVerify: true, NextProtos: protocols} //nolint:gosec // the test looks at the certificate itself
}

func TestTheXDSPortShowsTheControlPlanesIdentity(t *testing.T) {
	ca, _, _ := open(t)
	m, err := NewManager(ca, Options{Rotation: day, TTL: 2 * day})
	if err != nil {
		t.Fatal(err)
	}
	state, err := handshake(t, m.ServerTLS(), anyServer("h2"))
	if err != nil {
		t.Fatal(err)
	}
	if state.Version != tls.VersionTLS13 || state.NegotiatedProtocol != "h2" {
		t.Errorf("TLS version %x, protocol %q", state.Version, state.NegotiatedProtocol)
	}
	id, _, err := x509svid.Verify(state.PeerCertificates, ca.roots.Load().bundle)
	if err != nil {
		t.Fatal(err)
	}
	if id.String() != "spiffe://datapunk/control-plane" {
		t.Errorf("identity %s", id)
	}
}

// TestTheXDSPortHasTheNamesThatItIsDialedBy: the TLS of Go, and so that of
// gRPC's xDS client, knows no SPIFFE IDs.
func TestTheXDSPortHasTheNamesThatItIsDialedBy(t *testing.T) {
	ca, _, _ := open(t)
	m, err := NewManager(ca, Options{Rotation: day, TTL: 2 * day, ServerNames: []string{"xds.example", "10.0.0.2", "::1"}})
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(m.Roots())
	for name, ok := range map[string]bool{"xds.example": true, "XDS.example": true, "10.0.0.2": true, "::1": true, "other.example": false, "10.0.0.3": false} {
		_, err := handshake(t, m.ServerTLS(), &tls.Config{ServerName: name, RootCAs: roots, NextProtos: []string{"h2"}})
		if (err == nil) != ok {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, name := range []string{"", "*", "*.example", "xds.example:18000", "a..b", "-a", "xds.example.", "fe80::1/64"} {
		if _, err := NewManager(ca, Options{Rotation: day, TTL: 2 * day, ServerNames: []string{name}}); err == nil {
			t.Errorf("%q was taken for a name", name)
		}
	}
}

func TestTheXDSPortRefusesTLS12(t *testing.T) {
	ca, _, _ := open(t)
	m, err := NewManager(ca, Options{Rotation: day, TTL: 2 * day})
	if err != nil {
		t.Fatal(err)
	}
	client := anyServer("h2")
	client.MaxVersion = tls.VersionTLS12
	if _, err := handshake(t, m.ServerTLS(), client); err == nil {
		t.Error("TLS 1.2 was spoken")
	}
}

func TestTheXDSPortsCertificateIsRenewedInMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, day, 2*day)
		config := f.ServerTLS()
		shown := func() *x509.Certificate {
			c, err := config.GetCertificate(nil)
			if err != nil {
				t.Fatal(err)
			}
			leaf, err := x509.ParseCertificate(c.Certificate[0])
			if err != nil {
				t.Fatal(err)
			}
			return leaf
		}
		first := shown()
		time.Sleep(11 * time.Hour)
		if !shown().Equal(first) {
			t.Error("renewed before its half")
		}
		time.Sleep(2 * time.Hour)
		second := shown()
		if second.Equal(first) {
			t.Error("not renewed at its half")
		}

		f.broken.Store(true)
		time.Sleep(13 * time.Hour)
		if !shown().Equal(second) {
			t.Error("the last good one is not shown while the authority is down")
		}
		time.Sleep(day)
		if _, err := config.GetCertificate(nil); err == nil {
			t.Error("an expired certificate was shown")
		}
	})
}
