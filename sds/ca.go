package sds

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"datapunk.dev/controlplane/sds/identity"
)

const (
	rootLife = 10 * 365 * 24 * time.Hour
	// An intermediate is replaced at half of its life. It lives at least twice
	// as long as the certificates that it signs, so that none is cut short.
	intermediateLife = 7 * 24 * time.Hour
	// backdate is what NotBefore lies in the past, for peers whose clock is late.
	backdate = time.Minute
)

// CA is the embedded certificate authority: a root that lies in the data
// directory, two while one is replaced, and an intermediate under it that never
// leaves this process and signs the SVIDs. It is safe for concurrent use.
type CA struct {
	td   spiffeid.TrustDomain
	dir  string // empty in tests: nothing can be replaced
	at   Files  // where the root is if not there
	made bool   // the root, by this process: nobody can have known it before

	roots atomic.Pointer[roots]
}

// signer is a root, and the intermediate under it that signs.
type signer struct {
	td   spiffeid.TrustDomain
	root *x509.Certificate
	key  *ecdsa.PrivateKey // of the root; nil: the intermediate was given
	id   string            // see [identity.RootID]

	mu           sync.Mutex
	intermediate *issuer
}

// issuer is a certificate that signs others.
type issuer struct {
	cert  *x509.Certificate
	key   *ecdsa.PrivateKey
	above []*x509.Certificate // between it and the root, from below
	ends  time.Time           // when the first of it and those over it does: then no peer takes what it signed
}

// chain are the certificate, and those between it and the root, as DER.
func (i *issuer) chain() (all [][]byte) {
	all = append(all, i.cert.Raw)
	for _, cert := range i.above {
		all = append(all, cert.Raw)
	}
	return all
}

// svid is a certificate with its private key, ready to be served.
type svid struct {
	id                  spiffeid.ID
	names               serverNames // of the xDS port alone
	cert                []byte      // DER
	key                 []byte      // PKCS #8, DER
	issuer              *issuer
	signer              *signer // of the issuer
	serial              string  // hex, as Envoy's /certs writes it
	issued              time.Time
	notBefore, notAfter time.Time
}

// newSigner takes a root that is fit to sign with, as far as its dates allow it.
func newSigner(root *x509.Certificate, key *ecdsa.PrivateKey) (*signer, error) {
	td, err := identity.RootTrustDomain(root)
	if err != nil {
		return nil, err
	}
	switch {
	case root.KeyUsage&x509.KeyUsageCertSign == 0:
		return nil, errors.New("the root's key usage does not allow it to sign certificates")
	case root.MaxPathLen == 0:
		return nil, errors.New("the root's path length leaves no room for an intermediate")
	}
	if err := root.CheckSignatureFrom(root); err != nil {
		return nil, fmt.Errorf("the root is not self-signed: %w", err)
	}
	return &signer{td: td, root: root, key: key, id: identity.RootID(root)}, nil
}

// TrustDomain returns the trust domain of the authority.
func (c *CA) TrustDomain() spiffeid.TrustDomain { return c.td }

// Roots returns the trust bundle, as PEM: the root that the xDS port is under first.
func (c *CA) Roots() []byte { return c.roots.Load().pem }

// RootExpires returns when the first of the roots in use expires: that of the proxies'
// certificates, or that of the xDS port.
func (c *CA) RootExpires() time.Time {
	is := c.roots.Load()
	return earlier(is.first.root.NotAfter, is.signing.root.NotAfter)
}

// checkDates refuses a root that has ended, or has not begun.
func (r *signer) checkDates(now time.Time) error {
	switch {
	case now.Before(r.root.NotBefore):
		return fmt.Errorf("the root is valid from %s, later than now: is the clock right?", r.root.NotBefore.Format(time.RFC3339))
	case now.After(r.root.NotAfter):
		return fmt.Errorf("the root expired at %s", r.root.NotAfter.Format(time.RFC3339))
	}
	return nil
}

func newKey() (*ecdsa.PrivateKey, error) {
	return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
}

// newSerial returns a positive serial number of exactly 20 bytes, the most
// that RFC 5280 allows, 158 bits of it random.
func newSerial() (*big.Int, error) {
	b := make([]byte, 20)
	if _, err := rand.Read(b); err != nil {
		return nil, err
	}
	b[0] = b[0]&0x7f | 0x40
	return new(big.Int).SetBytes(b), nil
}

// newRoot makes a root certificate; both results are DER.
func newRoot(td spiffeid.TrustDomain, now time.Time) (cert, pkcs8 []byte, err error) {
	key, err := newKey()
	if err != nil {
		return nil, nil, err
	}
	template, err := authority(td, "root", now, now.Add(rootLife))
	if err != nil {
		return nil, nil, err
	}
	template.MaxPathLen = 1
	cert, err = x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, nil, err
	}
	pkcs8, err = x509.MarshalPKCS8PrivateKey(key)
	return cert, pkcs8, err
}

// authority is the template of a signing certificate. Its subject is unique:
// two authorities with one subject confuse those who build chains.
func authority(td spiffeid.TrustDomain, role string, now, notAfter time.Time) (*x509.Certificate, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	return &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: commonName(td, role), SerialNumber: serial.Text(16)},
		URIs:                  []*url.URL{td.ID().URL()},
		NotBefore:             now.Add(-backdate),
		NotAfter:              notAfter,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		SignatureAlgorithm:    x509.ECDSAWithSHA256,
	}, nil
}

// maxCommonName is ub-common-name of X.520 (RFC 5280 appendix A.1). A trust domain
// may have 255 letters.
const maxCommonName = 64

// commonName names an authority for people. What identifies it is the serial
// number of the subject, and the trust domain of the URI SAN.
func commonName(td spiffeid.TrustDomain, role string) string {
	const cut = "..."
	name := td.Name()
	if room := maxCommonName - len(" "+role); len(name) > room {
		name = name[:room-len(cut)] + cut
	}
	return name + " " + role
}

// issuerFor returns an intermediate that outlives certificates of the lifetime.
func (r *signer) issuerFor(now time.Time, ttl time.Duration) (*issuer, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.key == nil {
		return r.given(now)
	}
	if i := r.intermediate; i != nil {
		half := i.cert.NotAfter.Sub(i.cert.NotBefore) / 2
		left := i.cert.NotAfter.Sub(now)
		// A clock that was set back makes the intermediate one from the future.
		if !now.Before(i.cert.NotBefore) && left > half && (left >= ttl || i.cert.NotAfter.Equal(r.root.NotAfter)) {
			return i, nil
		}
	}
	i, err := r.newIntermediate("intermediate", now, max(intermediateLife, 2*ttl+backdate))
	if err != nil {
		return nil, fmt.Errorf("issue intermediate: %w", err)
	}
	r.intermediate = i
	return i, nil
}

func (r *signer) newIntermediate(role string, now time.Time, life time.Duration) (*issuer, error) {
	if !now.Before(r.root.NotAfter) {
		return nil, fmt.Errorf("the root expired at %s", r.root.NotAfter.Format(time.RFC3339))
	}
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	template, err := authority(r.td, role, now, earlier(now.Add(life), r.root.NotAfter))
	if err != nil {
		return nil, err
	}
	template.MaxPathLenZero = true
	der, err := x509.CreateCertificate(rand.Reader, template, r.root, &key.PublicKey, r.key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &issuer{cert: cert, key: key, ends: cert.NotAfter}, nil
}

// issue makes a certificate for the identity, with a key of its own, and
// checks it. Only the xDS port has names.
func (c *CA) issue(now time.Time, id spiffeid.ID, ttl time.Duration, names serverNames) (*svid, error) {
	signer := c.roots.Load().signerOf(id)
	i, err := signer.issuerFor(now, ttl)
	if err != nil {
		return nil, err
	}
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	keyID, err := subjectKeyID(&key.PublicKey)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		// The subject stays empty, and a proxy has no DNS SAN: Envoy's RBAC
		// falls back to either, and identity must have one place.
		URIs:                  []*url.URL{id.URL()},
		DNSNames:              names.dns,
		IPAddresses:           names.ips,
		NotBefore:             now.Add(-backdate),
		NotAfter:              earlier(now.Add(ttl), i.ends),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
		SubjectKeyId:          keyID,
		SignatureAlgorithm:    x509.ECDSAWithSHA256,
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, i.cert, &key.PublicKey, i.key)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	s := &svid{
		id: id, names: names, cert: cert, key: pkcs8, issuer: i, signer: signer,
		serial: hex.EncodeToString(serial.Bytes()),
		issued: now, notBefore: template.NotBefore, notAfter: template.NotAfter,
	}
	if err := c.check(s, now); err != nil {
		return nil, fmt.Errorf("the new certificate of %s is not fit to be served: %w", id, err)
	}
	return s, nil
}

// subjectKeyID follows RFC 7093 section 2 method 1. crypto/x509 sets it for
// authorities only.
func subjectKeyID(key *ecdsa.PublicKey) ([]byte, error) {
	point, err := key.Bytes()
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(point)
	return sum[:20], nil
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// chain returns the certificate and its intermediates as PEM. The root is left
// out: a peer has it, or must not believe it.
func (s *svid) chain() []byte {
	leaf := pem.EncodeToMemory(&pem.Block{Type: pemCertificate, Bytes: s.cert})
	for _, der := range s.issuer.chain() {
		leaf = append(leaf, pem.EncodeToMemory(&pem.Block{Type: pemCertificate, Bytes: der})...)
	}
	return leaf
}
