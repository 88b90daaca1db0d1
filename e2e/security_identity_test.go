package e2e

import (
	"bufio"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"datapunk.dev/controlplane/e2e/harness"
	"datapunk.dev/controlplane/e2e/traffic"
)

// meshID is the SPIFFE ID of a service of the tests' mesh.
func meshID(service string) string { return "spiffe://datapunk/" + service }

// quietMesh is the operators' file without what opens connections of its
// own (health checks) or what the mesh of these tests does not have (Jaeger).
const quietMesh = `mesh:
  load_balancing: {health_checks: null}
  telemetry: {tracing: {enabled: false}}
`

// withPolicies is quietMesh with these policies in place of the file's. The
// trust domain is said, since they may have no principal that does.
func withPolicies(policies string) string {
	return quietMesh + "  security:\n    mtls: {trust_domain: datapunk}\n    authorization:\n      policies:\n" + policies
}

// admitTheMesh is the policy of the operators' file.
const admitTheMesh = `        - {name: service-to-service, action: ALLOW, principals: ["spiffe://datapunk/*"]}
`

// authority signs certificates as no control plane would: with the key of a
// data directory in hand, or as a foreign authority that calls itself the same.
type authority struct {
	cert *x509.Certificate
	key  crypto.Signer
	// chain leads from what it issues to a root.
	chain [][]byte
}

// meshAuthority reads the authority of a mesh out of its data directory.
func meshAuthority(t *testing.T, m *harness.Mesh) *authority {
	t.Helper()
	dir := filepath.Dir(m.Plane.CAFile())
	return &authority{cert: certificateOf(t, m.Plane.CAFile()), key: privateKeyOf(t, filepath.Join(dir, "ca-key.pem"))}
}

// foreignAuthority is a root like the mesh's in all but its key.
func foreignAuthority(t *testing.T, like *authority) *authority {
	t.Helper()
	key := newPrivateKey(t)
	template := *like.cert
	template.PublicKey = nil
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, key.Public(), key)
	noError(t, err)
	cert, err := x509.ParseCertificate(der)
	noError(t, err)
	return &authority{cert: cert, key: key}
}

// authorityOf is a service that signs with its own certificate, which is none
// of an authority.
func authorityOf(t *testing.T, leaf *tls.Certificate) *authority {
	t.Helper()
	cert, err := x509.ParseCertificate(leaf.Certificate[0])
	noError(t, err)
	return &authority{cert: cert, key: leaf.PrivateKey.(crypto.Signer), chain: [][]byte{cert.Raw}}
}

// issue signs a certificate for the URIs, changed as the test likes.
func (a *authority) issue(t *testing.T, uris []string, change ...func(*x509.Certificate)) *tls.Certificate {
	t.Helper()
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	noError(t, err)
	template := &x509.Certificate{
		SerialNumber: serial,
		NotBefore:    time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	for _, text := range uris {
		u, err := url.Parse(text)
		noError(t, err)
		template.URIs = append(template.URIs, u)
	}
	for _, f := range change {
		f(template)
	}
	key := newPrivateKey(t)
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	noError(t, err)
	return &tls.Certificate{Certificate: append([][]byte{der}, a.chain...), PrivateKey: key}
}

// caller dials sidecars with a certificate, or with none. It checks who it
// talks to, as a sidecar would.
func (a *authority) caller(cert *tls.Certificate) *tls.Config {
	roots := x509.NewCertPool()
	roots.AddCert(a.cert)
	config := &tls.Config{
		MinVersion: tls.VersionTLS13,
		// A name of the DNS is in no certificate of the mesh: verified below.
		InsecureSkipVerify: true,
		VerifyConnection: func(s tls.ConnectionState) error {
			between := x509.NewCertPool()
			for _, c := range s.PeerCertificates[1:] {
				between.AddCert(c)
			}
			_, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between})
			return err
		},
	}
	if cert != nil {
		// Shown whatever authorities the server says that it accepts.
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	}
	return config
}

// dialTLS connects to a sidecar's inbound port. In TLS 1.3 a client has
// finished its handshake before the server has looked at its certificate, so
// no error here does not mean to be admitted.
func dialTLS(ctx context.Context, addr string, config *tls.Config) (*tls.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	conn, err := (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return conn.(*tls.Conn), nil
}

// callTLS sends one HTTP/1.1 request as it stands over a connection of its own.
func callTLS(ctx context.Context, addr string, config *tls.Config, r traffic.Request) (traffic.Response, error) {
	conn, err := dialTLS(ctx, addr, config)
	if err != nil {
		return traffic.Response{}, err
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return traffic.RawOver(ctx, conn, r)
}

// hearTLS says nothing and returns the bytes that the peer sends, until it
// closes or the time is over, and how the connection ended; nil if it was still
// open.
func hearTLS(ctx context.Context, addr string, config *tls.Config, listen time.Duration) (string, error) {
	conn, err := dialTLS(ctx, addr, config)
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetReadDeadline(time.Now().Add(listen)); err != nil {
		return "", err
	}
	heard, err := io.ReadAll(bufio.NewReader(conn))
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		return string(heard), nil
	}
	if err == nil {
		err = io.EOF
	}
	return string(heard), err
}

func newPrivateKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	noError(t, err)
	return key
}

func pemOf(t *testing.T, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	noError(t, err)
	block, _ := pem.Decode(text)
	if block == nil {
		t.Fatalf("%s: no PEM block", path)
	}
	return block.Bytes
}

func certificateOf(t *testing.T, path string) *x509.Certificate {
	t.Helper()
	cert, err := x509.ParseCertificate(pemOf(t, path))
	noError(t, err)
	return cert
}

func privateKeyOf(t *testing.T, path string) crypto.Signer {
	t.Helper()
	key, err := x509.ParsePKCS8PrivateKey(pemOf(t, path))
	noError(t, err)
	signer, ok := key.(crypto.Signer)
	if !ok {
		t.Fatalf("%s: a %T signs nothing", path, key)
	}
	return signer
}

func named(commonName string) func(*x509.Certificate) {
	return func(c *x509.Certificate) { c.Subject = pkix.Name{CommonName: commonName} }
}

func expired(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Hour) }

// inboundStat returns a counter of a sidecar's inbound listener.
func inboundStat(t *testing.T, m *harness.Mesh, s *harness.Sidecar, name string) uint64 {
	t.Helper()
	for stat, n := range m.Stats(s.ID) {
		if strings.HasPrefix(stat, "listener.") && strings.HasSuffix(stat, fmt.Sprintf("_%d.%s", s.MeshPort, name)) {
			return n
		}
	}
	t.Fatalf("%s: the inbound listener has no counter %s", s.ID, name)
	return 0
}

func noError(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
