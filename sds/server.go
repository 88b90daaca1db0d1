package sds

import (
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"

	"datapunk.dev/controlplane/sds/identity"
)

// serverLife is how long a certificate of the xDS port lives. It is replaced
// at half of that, by the first handshake after it: proxies look at it only in
// a handshake, so nothing has to be pushed.
const serverLife = 24 * time.Hour

// serverNames are what the certificate of the xDS port has beside its identity.
// Envoys look for the identity. The TLS of gRPC's own clients knows none of
// that and looks for the name or the IP that they dialed; since no proxy has
// such a name, none can pass for the control plane.
type serverNames struct {
	dns []string
	ips []net.IP
}

// parseServerNames tells DNS names from IPs.
func parseServerNames(list []string) (serverNames, error) {
	var n serverNames
	for _, name := range list {
		if ip, err := netip.ParseAddr(name); err == nil {
			n.ips = append(n.ips, ip.Unmap().WithZone("").AsSlice())
			continue
		}
		if !dnsName.MatchString(name) || len(name) > 253 {
			return n, fmt.Errorf("%q is neither a DNS name nor an IP", name)
		}
		n.dns = append(n.dns, strings.ToLower(name))
	}
	return n, nil
}

// dnsName is a host name in full (RFC 1123 section 2.1): no wildcard, no port.
// Underscores are no part of those, but of the names that containers have.
var dnsName = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?)*$`)

func (n serverNames) equal(o serverNames) bool {
	return slices.Equal(n.dns, o.dns) && slices.EqualFunc(n.ips, o.ips, net.IP.Equal)
}

type serverCert struct {
	mu     sync.Mutex
	svid   *svid
	loaded *tls.Certificate
}

// ServerTLS returns the TLS settings of the xDS port: TLS 1.3 and HTTP/2 only,
// with a certificate for spiffe://<trust domain>/control-plane that is renewed
// in memory. Clients show no certificate, they prove themselves by token.
func (m *Manager) ServerTLS() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{"h2"},
		// A resumed session would go on under a root that is no longer trusted.
		SessionTicketsDisabled: true,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return m.serverCertificate()
		},
	}
}

// PeerTLS returns the TLS settings with which this control plane calls another one of
// its mesh. It speaks to no server that is not a control plane of the same authority.
func (m *Manager) PeerTLS() *tls.Config {
	config := tlsconfig.TLSClientConfig(m.ca, tlsconfig.AuthorizeID(identity.ControlPlaneID(m.ca.td)))
	config.MinVersion = tls.VersionTLS13
	return config
}

func (m *Manager) serverCertificate() (*tls.Certificate, error) {
	c := &m.server
	c.mu.Lock()
	defer c.mu.Unlock()
	now := m.now()
	if c.svid != nil && c.svid.signer == m.ca.roots.Load().first && now.After(c.svid.notBefore) && now.Sub(c.svid.issued) < c.svid.notAfter.Sub(c.svid.issued)/2 {
		return c.loaded, nil
	}
	svid, loaded, err := m.issueServer(now)
	if err != nil {
		m.log.Error("the certificate of the xDS port was not renewed", "error", err)
		if c.svid != nil && now.Before(c.svid.notAfter) {
			return c.loaded, nil
		}
		return nil, err
	}
	c.svid, c.loaded = svid, loaded
	return loaded, nil
}

func (m *Manager) issueServer(now time.Time) (*svid, *tls.Certificate, error) {
	s, err := m.issue(now, identity.ControlPlaneID(m.ca.td), serverLife, m.names)
	if err != nil {
		return nil, nil, err
	}
	key, err := x509.ParsePKCS8PrivateKey(s.key)
	if err != nil {
		return nil, nil, err
	}
	signer, ok := key.(*ecdsa.PrivateKey)
	if !ok {
		return nil, nil, fmt.Errorf("want an ECDSA key, have %T", key)
	}
	chain := slices.Concat([][]byte{s.cert}, s.issuer.chain(), [][]byte{s.signer.root.Raw})
	return s, &tls.Certificate{Certificate: chain, PrivateKey: signer}, nil
}
