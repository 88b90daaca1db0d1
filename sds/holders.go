package sds

import (
	"encoding/pem"
	"time"
)

// Holder is a proxy that has a lease.
type Holder struct {
	Node     string
	SPIFFEID string
	Info
}

// HeldBy says for which proxy the lease is.
func (l *Lease) HeldBy(node string) {
	l.m.mu.Lock()
	defer l.m.mu.Unlock()
	l.node = node
}

// Holders returns the proxies that have leases, in no order. A proxy with several
// streams has several.
func (m *Manager) Holders() []Holder {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := make([]Holder, 0, len(m.leases))
	for l := range m.leases {
		all = append(all, Holder{Node: l.node, SPIFFEID: l.id.String(), Info: l.infoLocked()})
	}
	return all
}

// rotateEvery spreads renewals that an operator asked for: each is a signature here, and
// a handshake of every connection there.
const rotateEvery = 5 * time.Millisecond

// Rotate has the certificates of some holders renewed now, one after the other, and says
// how many. Certificates that were never asked for are not issued for it.
func (m *Manager) Rotate(whose func(node, spiffeID string) bool) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := 0
	for l := range m.leases {
		if l.serial == "" || !whose(l.node, l.id.String()) {
			continue
		}
		m.schedule(l, m.now().Add(time.Duration(n)*rotateEvery))
		n++
	}
	return n
}

// Chain returns the certificates above a proxy's own, in PEM: the issuer's, if there is
// one yet, those above that, and the root that it is under.
func (m *Manager) Chain() []string {
	signing := m.ca.roots.Load().signing
	signing.mu.Lock()
	issuer := signing.intermediate
	signing.mu.Unlock()
	var chain []string
	if issuer != nil {
		for _, der := range issuer.chain() {
			chain = append(chain, string(pem.EncodeToMemory(&pem.Block{Type: pemCertificate, Bytes: der})))
		}
	}
	return append(chain, string(pem.EncodeToMemory(&pem.Block{Type: pemCertificate, Bytes: signing.root.Raw})))
}
