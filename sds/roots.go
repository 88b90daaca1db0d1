package sds

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"datapunk.dev/controlplane/sds/identity"
)

// Phase is how far the replacement of the root has come.
//
// A handshake fails if one side has a certificate whose root the other does not
// know. So a new root is trusted by all before it signs anything, and the old one is
// until nothing that it signed is in use any more.
type Phase string

// The phases, in their order; after the last the next root is the first, and alone.
const (
	// Steady is while there is one root.
	Steady Phase = "steady"
	// Prepared is while proxies are given both roots, and the first one signs.
	Prepared Phase = "prepared"
	// Activated is while they are given both, and the next one signs their
	// certificates. That of the xDS port stays under the first one: bootstraps pin a
	// root, and no push can change them.
	Activated Phase = "activated"
)

// roots are what is trusted, and who signs. It is immutable.
type roots struct {
	phase   Phase
	until   time.Time // see [Rotation.Until]
	first   *signer   // of the xDS port
	next    *signer   // nil where there is one root
	signing *signer   // of the proxies

	bundle *x509bundle.Bundle
	pem    []byte
}

// newRoots makes the value of a phase. Signers that were there before are kept, with
// their intermediates.
func newRoots(before *roots, phase Phase, until time.Time, first, next *signer) *roots {
	r := &roots{phase: phase, until: until, first: before.same(first), next: before.same(next)}
	r.signing = r.first
	trusted := []*x509.Certificate{r.first.root}
	if r.next != nil {
		trusted = append(trusted, r.next.root)
	}
	if phase == Activated {
		r.signing = r.next
	}
	for _, root := range trusted {
		r.pem = append(r.pem, pem.EncodeToMemory(&pem.Block{Type: pemCertificate, Bytes: root.Raw})...)
	}
	r.bundle = x509bundle.FromX509Authorities(first.td, trusted)
	return r
}

// same returns the signer of before that has the certificates of s, or s.
func (r *roots) same(s *signer) *signer {
	if r == nil || s == nil {
		return s
	}
	for _, old := range []*signer{r.first, r.next} {
		if old != nil && old.root.Equal(s.root) && (old.key == nil) == (s.key == nil) && (s.key != nil || slices.EqualFunc(old.intermediate.chain(), s.intermediate.chain(), bytes.Equal)) {
			return old
		}
	}
	return s
}

// signerOf is who signs the certificates of an identity.
func (r *roots) signerOf(id spiffeid.ID) *signer {
	if id == identity.ControlPlaneID(r.first.td) {
		return r.first
	}
	return r.signing
}

// has reports whether a root is trusted.
func (r *roots) has(id string) bool {
	return id == r.first.id || r.next != nil && id == r.next.id
}

// GetX509BundleForTrustDomain implements [x509bundle.Source] with what is trusted now.
func (c *CA) GetX509BundleForTrustDomain(td spiffeid.TrustDomain) (*x509bundle.Bundle, error) {
	return c.roots.Load().bundle.GetX509BundleForTrustDomain(td)
}

// Rotation is how far the replacement of the root has come, for people and for the
// other replicas.
type Rotation struct {
	Phase Phase
	// First is the root of the xDS port and, but for [Activated], of the proxies; Next
	// that which takes its place, the zero value if there is none.
	First, Next identity.RootHash
	// Until is when the last certificate ends that the root which does not sign has
	// signed, as far as this control plane did; zero if it has signed none.
	Until time.Time
	// Old is how many of the connected proxies hold such a one.
	Old int
}

// RootPEM returns the certificate of a root that is trusted, as PEM; nil if it is not.
func (m *Manager) RootPEM(h identity.RootHash) []byte {
	is := m.ca.roots.Load()
	for _, s := range []*signer{is.first, is.next} {
		if s != nil && hashOf(s) == h {
			return pem.EncodeToMemory(&pem.Block{Type: pemCertificate, Bytes: s.root.Raw})
		}
	}
	return nil
}

// Signs is the root that signs the proxies' certificates.
func (r Rotation) Signs() identity.RootHash {
	if r.Phase == Activated {
		return r.Next
	}
	return r.First
}

// Rotation returns how far the replacement of the root has come.
func (m *Manager) Rotation() Rotation {
	now := m.ca.roots.Load()
	r := Rotation{Phase: now.phase, First: hashOf(now.first), Until: now.until}
	if now.next != nil {
		r.Next = hashOf(now.next)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for l := range m.leases {
		if l.root != "" && l.root != now.signing.id {
			r.Old++
		}
	}
	return r
}

func hashOf(s *signer) identity.RootHash { return sha256.Sum256(s.root.Raw) }

// Prepare makes the next root, and has it trusted beside the first.
func (m *Manager) Prepare() error {
	return m.replace(func(d *directory) error { return d.prepare() })
}

// Activate has the next root sign. The proxies' certificates are replaced one by one,
// over a quarter of the rotation.
func (m *Manager) Activate() error {
	return m.replace(func(d *directory) error { return d.activate(m.lastExpiry()) })
}

// Retire ends the trust in the first root, for good: its key is replaced. What it has
// signed is refused from then on, and who pins it cannot connect any more.
func (m *Manager) Retire() error {
	return m.replace(func(d *directory) error { return d.retire() })
}

// StepBack returns to the phase before: from [Activated] the first root signs again,
// from [Prepared] the next one is forgotten, with its key.
func (m *Manager) StepBack() error {
	return m.replace(func(d *directory) error { return d.stepBack(m.lastExpiry()) })
}

// Reload reads the roots again, and reports whether what is trusted, or who signs, is
// something else now. With an error all stays as it is.
func (m *Manager) Reload() (changed bool, err error) {
	m.replacing.Lock()
	defer m.replacing.Unlock()
	return m.reload()
}

func (m *Manager) reload() (changed bool, err error) {
	before := m.ca.roots.Load()
	if err := m.ca.reload(m.now()); err != nil {
		return false, err
	}
	now := m.ca.roots.Load()
	if now.signing.id != before.signing.id {
		m.reissue(now)
	}
	return now.signing.id != before.signing.id || !slices.Equal(now.pem, before.pem), nil
}

// replace takes a step in the data directory, and what it led to into force.
func (m *Manager) replace(step func(*directory) error) error {
	m.replacing.Lock()
	defer m.replacing.Unlock()
	if err := m.ca.inDirectory(m.now(), step); err != nil {
		return err
	}
	_, err := m.reload()
	return err
}

// lastExpiry is when the last certificate ends that this process has given out, or may
// have before it was started.
func (m *Manager) lastExpiry() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	last := m.now().Add(m.ttl)
	for l := range m.leases {
		if l.cert != nil && l.cert.svid.notAfter.After(last) {
			last = l.cert.svid.notAfter
		}
	}
	return last
}

// reissue has the certificates replaced that another root signed than that which
// does now, spread as those are that are overdue.
func (m *Manager) reissue(now *roots) {
	m.mu.Lock()
	defer m.mu.Unlock()
	at := m.now()
	for l := range m.leases {
		if l.root != "" && l.root != now.signing.id && l.failures == 0 {
			m.schedule(l, earlier(l.due, soon(l.serial, m.rotation, at)))
		}
	}
}

var errNoRotation = errors.New("no replacement of the root is under way")
