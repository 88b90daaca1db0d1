package sds

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// tick bounds how long the manager sleeps while a renewal is ahead. Timers
// stand still while a machine is suspended and do not follow a clock that is
// set; so the time of day is looked at this often.
const tick = 10 * time.Second

// Options are the settings of a [Manager].
type Options struct {
	// Rotation is the age at which a certificate is replaced at the latest; TTL
	// is its lifetime, which must be longer.
	Rotation, TTL time.Duration
	// ServerNames are the DNS names and IPs by which clients that are no Envoys
	// dial the xDS port.
	ServerNames []string
	// Now is the time of day; nil is the machine's clock.
	Now func() time.Time
	// Log gets failures and recoveries; nil discards them.
	Log *slog.Logger
}

// Manager issues and renews the SVIDs of the connected proxies. Renewals need
// [Manager.Run]; all else works without it.
type Manager struct {
	ca    *CA
	now   func() time.Time
	log   *slog.Logger
	issue func(now time.Time, id spiffeid.ID, ttl time.Duration, names serverNames) (*svid, error)

	names  serverNames
	server serverCert
	wake   chan struct{} // the first renewal moved

	issued, failed atomic.Uint64

	// Of the goroutine of Run: when the log last had a failure, zero after it
	// had the recovery, and the failures since.
	said   time.Time
	unsaid int

	replacing sync.Mutex // of the roots: one step, or look at the directory, at a time

	mu            sync.Mutex
	rotation, ttl time.Duration
	looked        time.Time // at the clock, last
	leases        map[*Lease]struct{}
	queue         queue
}

// NewManager returns a manager that issues from the authority.
func NewManager(ca *CA, o Options) (*Manager, error) {
	if err := checkLifetimes(o.Rotation, o.TTL); err != nil {
		return nil, err
	}
	names, err := parseServerNames(o.ServerNames)
	if err != nil {
		return nil, fmt.Errorf("name of the xDS port: %w", err)
	}
	m := &Manager{
		ca: ca, names: names, now: o.Now, log: o.Log, issue: ca.issue,
		wake:     make(chan struct{}, 1),
		rotation: o.Rotation, ttl: o.TTL,
		leases: make(map[*Lease]struct{}),
	}
	if m.now == nil {
		m.now = wallClock
	}
	if m.log == nil {
		m.log = slog.New(slog.DiscardHandler)
	}
	return m, nil
}

func checkLifetimes(rotation, ttl time.Duration) error {
	if rotation < time.Second {
		return fmt.Errorf("rotation of certificates every %s: the least is 1s", rotation)
	}
	if ttl <= rotation {
		return fmt.Errorf("certificates that live %s cannot be rotated at an age of %s: they must live longer", ttl, rotation)
	}
	return nil
}

// Roots returns the trust bundle, as PEM.
func (m *Manager) Roots() []byte { return m.ca.Roots() }

// IsNew reports whether this process made the root: no proxy can know it from before.
func (m *Manager) IsNew() bool { return m.ca.made }

// TrustDomain returns the trust domain of the certificates.
func (m *Manager) TrustDomain() spiffeid.TrustDomain { return m.ca.td }

// Stats are counters and the state of all leases.
type Stats struct {
	Leases int
	// Issued counts the proxies' certificates that were made, Failed the
	// attempts that were not, since the start.
	Issued, Failed uint64
	// Failing is how many leases wait for another attempt.
	Failing int
	// EarliestExpiry is the first time at which a served certificate expires;
	// zero without one. Those that were adopted are not in it.
	EarliestExpiry time.Time
	// RootExpires is when the root expires.
	RootExpires time.Time
}

// Stats returns counters for metrics. Its cost is in proportion to the number
// of leases.
func (m *Manager) Stats() Stats {
	s := Stats{Issued: m.issued.Load(), Failed: m.failed.Load(), RootExpires: m.ca.RootExpires()}
	m.mu.Lock()
	defer m.mu.Unlock()
	s.Leases = len(m.leases)
	for l := range m.leases {
		if l.failures > 0 {
			s.Failing++
		}
		if l.cert != nil && (s.EarliestExpiry.IsZero() || l.cert.svid.notAfter.Before(s.EarliestExpiry)) {
			s.EarliestExpiry = l.cert.svid.notAfter
		}
	}
	return s
}

// SetLifetimes changes the rotation and the lifetime of certificates, and
// draws every renewal again. A certificate that is already older than the new
// rotation is renewed within a quarter of it, not at once: the whole fleet may
// be in that state.
func (m *Manager) SetLifetimes(rotation, ttl time.Duration) error {
	if err := checkLifetimes(rotation, ttl); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if rotation == m.rotation && ttl == m.ttl {
		return nil
	}
	shorter := rotation < m.rotation
	m.rotation, m.ttl = rotation, ttl
	now := m.now()
	for l := range m.leases {
		switch {
		case l.failures > 0: // its next attempt is soon
		case l.cert != nil:
			m.schedule(l, renewalOf(l.cert.svid, rotation, now))
		case l.adopted && shorter:
			// Its age is not known, so it may be due already.
			m.schedule(l, earlier(l.due, soon(l.serial, rotation, now)))
		}
	}
	return nil
}

// schedule sets when a lease is renewed; m.mu is held.
func (m *Manager) schedule(l *Lease, due time.Time) {
	l.due = due
	m.queue.set(l)
	if m.queue.first() == l {
		m.poke()
	}
}

func (m *Manager) poke() {
	select {
	case m.wake <- struct{}{}:
	default: // already woken
	}
}

// Run renews certificates until the context ends. It calls the leases'
// changed functions, one at a time.
func (m *Manager) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-m.wake:
		case <-timer.C:
		}
		m.lookAtClock()
		m.renewDue(ctx)
		if wait, ok := m.untilNext(); ok {
			timer.Reset(wait)
		} else {
			timer.Stop()
		}
	}
}

// lookAtClock has certificates renewed that begin in the future, since the clock was
// set back: peers whose clocks were right all the time refuse them.
func (m *Manager) lookAtClock() {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	back := m.looked.Sub(now)
	m.looked = now
	if back <= 0 {
		return
	}
	early := 0
	for l := range m.leases {
		begins := l.cert != nil && l.cert.svid.notBefore.After(now)
		if begins || l.adopted && l.due.After(now.Add(m.rotation)) || l.failures > 0 && l.due.After(now.Add(retryMost)) {
			early++
			m.schedule(l, now)
		}
	}
	if early > 0 {
		m.log.Warn("the clock was set back: certificates that begin later are renewed", "by", back.Round(time.Second), "certificates", early)
	}
}

func (m *Manager) untilNext() (time.Duration, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	l := m.queue.first()
	if l == nil {
		return 0, false
	}
	return min(max(l.due.Sub(m.now()), 0), tick), true
}

// sayAgain is how often the log has it that certificates are not renewed.
const sayAgain = time.Minute

// renewDue renews what is due.
func (m *Manager) renewDue(ctx context.Context) {
	var failures int
	var cause error
	for ctx.Err() == nil {
		l := m.popDue()
		if l == nil {
			break
		}
		switch err := l.renew(); {
		case err == nil:
			l.changed()
		case !errors.Is(err, errReleased):
			failures++
			cause = err
		}
	}
	m.say(failures, cause)
}

// say logs failures and their end. Failures come in crowds, and each proxy's is
// tried again at a time of its own; so it is not a line for each.
func (m *Manager) say(failures int, cause error) {
	now := m.now()
	if m.unsaid += failures; failures > 0 && now.Sub(m.said) >= sayAgain {
		m.log.Warn("certificates were not renewed; proxies keep the last ones, attempts go on", "attempts", m.unsaid, "error", cause)
		m.unsaid, m.said = 0, now
	}
	if m.said.IsZero() || failures > 0 || m.Stats().Failing > 0 {
		return
	}
	m.log.Info("certificates are renewed again")
	m.unsaid, m.said = 0, time.Time{}
}

// certify issues a certificate. A panic on the way is a failure like any other:
// the proxy keeps its last one, and attempts go on.
func (m *Manager) certify(id spiffeid.ID, ttl time.Duration) (cert *svid, err error) {
	defer func() {
		if r := recover(); r != nil {
			m.log.Error("panic in issuing a certificate", "id", id, "panic", r, "stack", string(debug.Stack()))
			cert, err = nil, fmt.Errorf("panic: %v", r)
		}
	}()
	return m.issue(m.now(), id, ttl, serverNames{})
}

func (m *Manager) popDue() *Lease {
	m.mu.Lock()
	defer m.mu.Unlock()
	l := m.queue.first()
	if l == nil || l.due.After(m.now()) {
		return nil
	}
	m.queue.remove(l)
	return l
}
