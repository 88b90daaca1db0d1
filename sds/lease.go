package sds

import (
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/protobuf/proto"

	"datapunk.dev/controlplane/sds/identity"
)

var errReleased = errors.New("the lease is released")

// Lease is one proxy's claim to a certificate of its own, from when its stream
// is authenticated until that ends. The certificate is issued when it is first
// asked for and renewed until the lease is released. It is safe for concurrent
// use.
type Lease struct {
	m       *Manager
	id      spiffeid.ID
	changed func()

	issuing sync.Mutex // one attempt at a time; taken before m.mu

	// The rest is guarded by m.mu.
	node     string // of the proxy, for people
	released bool
	cert     *Certificate // nil: none issued yet
	adopted  bool         // the proxy holds a certificate that cert is not
	root     string       // that signed what the proxy is to hold, in short; empty: nothing yet
	serial   string       // of what the proxy is to hold
	version  string       // likewise
	due      time.Time    // of the renewal or the next attempt
	index    int          // in the queue, -1: not there
	failures int          // since the last success
	cause    error        // of the last failure
}

// Lease starts a lease for a proxy of the service. The function is called
// after each renewal, when [Lease.Certificate] is another one: it must not block,
// nor call the lease. Who asks must have been authenticated as that service.
func (m *Manager) Lease(service string, changed func()) (*Lease, error) {
	id, err := identity.ServiceID(m.ca.td, service)
	if err != nil {
		return nil, err
	}
	l := &Lease{m: m, id: id, changed: changed, index: -1}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.leases[l] = struct{}{}
	return l, nil
}

// Release ends the lease. The certificate is forgotten; it stays valid until
// it expires.
func (l *Lease) Release() {
	l.m.mu.Lock()
	defer l.m.mu.Unlock()
	l.released = true
	l.cert = nil
	l.m.queue.remove(l)
	delete(l.m.leases, l)
}

// Certificate is one certificate of a proxy, with all that is said of it: who
// shows its serial beside its body has both from one look. It is immutable.
type Certificate struct {
	svid    *svid
	version string
}

// Version is that of the secret: <root>.<renewal, Unix seconds>.<serial>.
func (c *Certificate) Version() string { return c.version }

// Serial is the serial number in hex, as Envoy's /certs writes it.
func (c *Certificate) Serial() string { return c.svid.serial }

// Expires is when the certificate ends.
func (c *Certificate) Expires() time.Time { return c.svid.notAfter }

// Secret returns certificate and key as an encoded Envoy Secret of the name.
func (c *Certificate) Secret(name string) ([]byte, error) {
	body, err := encodeSecret(name, c.svid)
	if err != nil {
		return nil, fmt.Errorf("encode secret %s: %w", name, err)
	}
	return body, nil
}

// SPIFFEID is the identity that the lease is for. It never changes.
func (l *Lease) SPIFFEID() string { return l.id.String() }

// Certificate returns the proxy's certificate, and issues when there is none
// yet. While issuing fails it returns the last good one, and after that has
// expired, the error; attempts go on by themselves, and the first to succeed
// calls the changed function.
func (l *Lease) Certificate() (*Certificate, error) {
	if c := l.usable(); c != nil {
		return c, nil
	}
	l.issuing.Lock()
	if c := l.usable(); c != nil { // another call was faster
		l.issuing.Unlock()
		return c, nil
	}
	l.m.mu.Lock()
	replaces := l.adopted
	l.m.mu.Unlock()
	c, err := l.attempt()
	l.issuing.Unlock()
	if err == nil && replaces {
		l.changed() // under another name the proxy still holds the adopted one
	}
	return c, err
}

// usable returns the certificate unless there is none that is valid.
func (l *Lease) usable() *Certificate {
	l.m.mu.Lock()
	defer l.m.mu.Unlock()
	if l.cert != nil && l.m.now().Before(l.cert.svid.notAfter) {
		return l.cert
	}
	return nil
}

// renew replaces the certificate, whatever its age.
func (l *Lease) renew() error {
	l.issuing.Lock()
	defer l.issuing.Unlock()
	_, err := l.attempt()
	return err
}

// attempt issues a certificate and sets when that happens next; l.issuing is
// held.
func (l *Lease) attempt() (*Certificate, error) {
	m := l.m
	m.mu.Lock()
	released, ttl := l.released, m.ttl
	m.mu.Unlock()
	if released {
		return nil, errReleased
	}
	cert, err := m.certify(l.id, ttl)

	m.mu.Lock()
	defer m.mu.Unlock()
	if l.released {
		return nil, errReleased
	}
	now := m.now()
	if err != nil {
		m.failed.Add(1)
		urgent := false
		if l.cert != nil {
			last := l.cert.svid
			urgent = last.notAfter.Sub(now) < last.notAfter.Sub(last.issued)/10
		}
		m.schedule(l, now.Add(retryAfter(l.failures, urgent)))
		l.failures++
		l.cause = err
		return nil, err
	}
	m.issued.Add(1)
	due := renewalOf(cert, m.rotation, now)
	if cert.signer.id != m.ca.roots.Load().signing.id { // another root signs since it was begun
		due = earlier(due, soon(cert.serial, m.rotation, now))
	}
	m.schedule(l, due)
	c := &Certificate{cert, fmt.Sprintf("%s.%d.%s", cert.signer.id, l.due.Unix(), cert.serial)}
	l.cert, l.adopted, l.failures, l.cause = c, false, 0, nil
	l.root, l.serial, l.version = cert.signer.id, cert.serial, c.version
	return c, nil
}

// Adopt takes over the certificate that a proxy reports to hold when it
// reconnects, by its version, so that a restart of the control plane does not
// issue for the whole fleet. It reports whether there is nothing to send: the
// version is of a trusted root and its renewal lies ahead, and will be kept.
func (l *Lease) Adopt(version string) bool {
	m := l.m
	m.mu.Lock()
	defer m.mu.Unlock()
	if l.released {
		return false
	}
	if l.version != "" {
		return l.version == version
	}
	root, due, serial, ok := parseVersion(version)
	now := m.now()
	trusted := m.ca.roots.Load()
	if !ok || !trusted.has(root) || !due.After(now) {
		return false
	}
	if root != trusted.signing.id { // which is replaced
		due = earlier(due, soon(serial, m.rotation, now))
	}
	if due.After(now.Add(m.rotation)) { // the rotation is shorter now
		due = soon(serial, m.rotation, now)
	}
	l.adopted, l.root, l.serial, l.version = true, root, serial, version
	m.schedule(l, due)
	return true
}

// Info describes the certificate that the proxy is to hold.
type Info struct {
	Serial string // hex; empty: none yet
	// NotBefore and NotAfter are zero for an adopted certificate.
	NotBefore, NotAfter time.Time
	Adopted             bool
	RenewAt             time.Time // of the renewal, or of the next attempt after a failure
	Error               string    // why the last attempt failed; empty: it did not
}

// Info returns what the lease stands for, for people.
func (l *Lease) Info() Info {
	l.m.mu.Lock()
	defer l.m.mu.Unlock()
	return l.infoLocked()
}

func (l *Lease) infoLocked() Info {
	info := Info{Serial: l.serial, Adopted: l.adopted, RenewAt: l.due}
	if l.cert != nil {
		info.NotBefore, info.NotAfter = l.cert.svid.notBefore, l.cert.svid.notAfter
	}
	if l.cause != nil {
		info.Error = l.cause.Error()
	}
	return info
}

func parseVersion(version string) (root string, due time.Time, serial string, ok bool) {
	parts := strings.Split(version, ".")
	if len(parts) != 3 {
		return "", time.Time{}, "", false
	}
	unix, err := strconv.ParseInt(parts[1], 10, 64)
	if err != nil {
		return "", time.Time{}, "", false
	}
	if b, err := hex.DecodeString(parts[2]); err != nil || len(b) != 20 {
		return "", time.Time{}, "", false
	}
	return parts[0], time.Unix(unix, 0), parts[2], true
}

// encodeSecret encodes the message that Envoy's SDS wants, always to the same
// bytes.
func encodeSecret(name string, s *svid) ([]byte, error) {
	inline := func(b []byte) *corev3.DataSource {
		return &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: b}}
	}
	return proto.MarshalOptions{Deterministic: true}.Marshal(&tlsv3.Secret{
		Name: name,
		Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{
			CertificateChain: inline(s.chain()),
			PrivateKey:       inline(pem.EncodeToMemory(&pem.Block{Type: pemPrivateKey, Bytes: s.key})),
		}},
	})
}
