package sidecar

import (
	"bytes"
	"crypto/tls"
	"net"
	"strings"
	"sync"
	"testing"

	"datapunk.dev/controlplane/sds"
	"datapunk.dev/controlplane/sds/identity"
)

// handshakes serves TLS as an xDS port does, and counts the bytes that a client
// sends after its handshake.
func handshakes(t *testing.T, config *tls.Config) (address string, sent func() int) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var serving sync.WaitGroup
	n := 0
	serving.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer conn.Close() //nolint:errcheck // a test's
				server := tls.Server(conn, config)
				read, _ := server.Read(make([]byte, 1))
				mu.Lock()
				defer mu.Unlock()
				n += read
			})
		}
	})
	t.Cleanup(func() { _ = l.Close(); serving.Wait() })
	return l.Addr().String(), func() int { _ = l.Close(); serving.Wait(); return n }
}

func managerOf(t *testing.T, ca *sds.CA) *sds.Manager {
	t.Helper()
	m, err := sds.NewManager(ca, sds.Options{Rotation: day, TTL: 2 * day})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestARootIsKnownByItsHash(t *testing.T) {
	ca, _ := open(t)
	hash, err := identity.HashRoot(ca.Roots())
	if err != nil {
		t.Fatal(err)
	}
	for _, spelling := range []string{hash.String(), "sha256:" + strings.ToUpper(strings.TrimPrefix(hash.String(), "sha256:"))} {
		sum, err := identity.ParseRootHash(spelling)
		if err != nil {
			t.Fatal(err)
		}
		address, sent := handshakes(t, managerOf(t, ca).ServerTLS())
		got, err := fetchRoot(t.Context(), []string{"127.0.0.1:1", address}, sum)
		if err != nil || !bytes.Equal(got, ca.Roots()) {
			t.Errorf("%s: %s, %v", spelling, got, err)
		}
		if n := sent(); n != 0 {
			t.Errorf("%d bytes were sent", n)
		}
	}
}

// TestAnotherRootIsRefusedBeforeAnythingIsSent: of another mesh, of a proxy of
// this mesh, and of somebody who shows the right root without its key.
func TestAnotherRootIsRefusedBeforeAnythingIsSent(t *testing.T) {
	ca, _ := open(t)
	other, _ := open(t)
	sum, err := identity.HashRoot(ca.Roots())
	if err != nil {
		t.Fatal(err)
	}
	serverOf := func(ca *sds.CA) tls.Certificate {
		c, err := managerOf(t, ca).ServerTLS().GetCertificate(nil)
		if err != nil {
			t.Fatal(err)
		}
		return *c
	}
	good, foreign := serverOf(ca), serverOf(other)
	root := good.Certificate[2]
	proxy := secretOf(t, ca, "web")
	pair, err := tls.X509KeyPair(proxy.GetTlsCertificate().GetCertificateChain().GetInlineBytes(), proxy.GetTlsCertificate().GetPrivateKey().GetInlineBytes())
	if err != nil {
		t.Fatal(err)
	}
	pair.Certificate = append(pair.Certificate, root)
	lie := foreign
	lie.Certificate = [][]byte{foreign.Certificate[0], foreign.Certificate[1], root}
	for name, certificate := range map[string]tls.Certificate{"another mesh": foreign, "a proxy of this mesh": pair, "the right root on another's": lie} {
		address, sent := handshakes(t, &tls.Config{MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"}, Certificates: []tls.Certificate{certificate}})
		if got, err := fetchRoot(t.Context(), []string{address}, sum); err == nil {
			t.Errorf("%s: taken: %s", name, got)
		}
		if n := sent(); n != 0 {
			t.Errorf("%s: %d bytes were sent", name, n)
		}
	}
	for _, bad := range []string{"", "sha256:", sum.String()[7:], sum.String() + "00", "sha1:" + sum.String()[7:], "sha256:zz" + sum.String()[9:]} {
		if _, err := identity.ParseRootHash(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}
