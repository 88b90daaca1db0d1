package sds

import (
	"context"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"datapunk.dev/controlplane/internal/testlog"
)

const day = 24 * time.Hour

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fleet is a manager at work, in the bubble of a test.
type fleet struct {
	*Manager
	clock   *clock
	changes atomic.Int64 // calls of the leases' changed functions
	broken  atomic.Bool  // the authority fails
	log     testlog.Buffer
}

// clock is the bubble's time of day, plus the time that the machine slept.
type clock struct{ asleep atomic.Int64 }

func (c *clock) now() time.Time { return time.Now().Round(0).Add(time.Duration(c.asleep.Load())) }

// suspend lets time pass of which timers know nothing.
func (c *clock) suspend(d time.Duration) { c.asleep.Add(int64(d)) }

func newFleet(t *testing.T, rotation, ttl time.Duration) *fleet {
	t.Helper()
	ca, _, _ := open(t)
	f := &fleet{clock: &clock{}}
	m, err := NewManager(ca, Options{Rotation: rotation, TTL: ttl, Now: f.clock.now, Log: slog.New(slog.NewTextHandler(&f.log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	f.Manager = m
	m.issue = func(now time.Time, id spiffeid.ID, ttl time.Duration, names serverNames) (*svid, error) {
		if f.broken.Load() {
			return nil, errors.New("the authority is down")
		}
		return ca.issue(now, id, ttl, names)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = m.Run(ctx)
	}()
	t.Cleanup(func() { cancel(); <-done })
	return f
}

func (f *fleet) lease(t *testing.T) *Lease {
	t.Helper()
	l, err := f.Lease("web", func() { f.changes.Add(1) })
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// secretOf returns what a proxy is sent.
func secretOf(l *Lease, name string) (body []byte, version string, err error) {
	c, err := l.Certificate()
	if err != nil {
		return nil, "", err
	}
	body, err = c.Secret(name)
	return body, c.Version(), err
}

// version is that of the secret that the lease serves now.
func version(t *testing.T, l *Lease) string {
	t.Helper()
	_, v, err := secretOf(l, "default")
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestASecretIsWhatEnvoyWants(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, day, 2*day)
		l := f.lease(t)
		if info := l.Info(); info.Serial != "" {
			t.Error("a certificate was issued before anybody asked for it")
		}
		body, v, err := secretOf(l, "default")
		if err != nil {
			t.Fatal(err)
		}
		secret := new(tlsv3.Secret)
		if err := proto.Unmarshal(body, secret); err != nil {
			t.Fatal(err)
		}
		if err := secret.ValidateAll(); err != nil {
			t.Error(err)
		}
		if secret.GetName() != "default" {
			t.Errorf("name %q", secret.GetName())
		}
		pair := secret.GetTlsCertificate()
		parsed, err := x509svid.Parse(pair.GetCertificateChain().GetInlineBytes(), pair.GetPrivateKey().GetInlineBytes())
		if err != nil {
			t.Fatal(err)
		}
		if got := parsed.ID.String(); got != "spiffe://datapunk/web" {
			t.Errorf("identity %s", got)
		}
		info := l.Info()
		if want := fmt.Sprintf("%s.%d.%s", f.ca.roots.Load().first.id, info.RenewAt.Unix(), info.Serial); v != want {
			t.Errorf("version %s, want %s", v, want)
		}
		if !info.NotAfter.Equal(parsed.Certificates[0].NotAfter.Local()) && info.NotAfter.Sub(parsed.Certificates[0].NotAfter).Abs() > time.Second {
			t.Errorf("info says it expires at %s, the certificate at %s", info.NotAfter, parsed.Certificates[0].NotAfter)
		}
		again, v2, err := secretOf(l, "default")
		if err != nil {
			t.Fatal(err)
		}
		if v2 != v || string(again) != string(body) {
			t.Error("asking again gave something else")
		}
	})
}

func TestRenewalComesInTheLastQuarterOfTheRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, day, 2*day)
		l := f.lease(t)
		old := version(t, l)
		time.Sleep(18*time.Hour - time.Second)
		if v := version(t, l); v != old || f.changes.Load() != 0 {
			t.Fatal("renewed before 75 % of the rotation")
		}
		renewAt := l.Info().RenewAt
		time.Sleep(6*time.Hour + 2*time.Second)
		if v := version(t, l); v == old || f.changes.Load() != 1 {
			t.Fatalf("not renewed at 100 %% of the rotation; %d changes", f.changes.Load())
		}
		issued := l.Info().NotBefore.Add(time.Minute)
		if late := issued.Sub(renewAt); late < 0 || late > time.Second {
			t.Errorf("renewed %s after it was due", late)
		}
	})
}

func TestARenewalSparesOtherProxies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, day, 2*day)
		one := f.lease(t)
		version(t, one)
		time.Sleep(12 * time.Hour)
		two := f.lease(t)
		v := version(t, two)
		time.Sleep(12 * time.Hour)
		if version(t, two) != v {
			t.Error("web-2 was renewed with web-1")
		}
	})
}

func TestAMachineThatSleptRenewsOnWaking(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, day, 2*day)
		l := f.lease(t)
		old := version(t, l)
		time.Sleep(time.Minute)
		f.clock.suspend(30 * time.Hour)
		time.Sleep(tick + time.Second)
		if f.changes.Load() != 1 || version(t, l) == old {
			t.Error("not renewed within a tick of waking")
		}
	})
}

// Whichever way a clock steps, each proxy has a certificate that is valid by it, and no
// more of them are issued than that takes.
func TestAClockThatStepsRenewsWhatIsDueAndNoMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, day, 2*day)
		time.Sleep(day) // a clock before the root's beginning is said, and nothing can be issued
		const proxies = 100
		var leases []*Lease
		for range proxies {
			l := f.lease(t)
			version(t, l)
			leases = append(leases, l)
		}
		serves := func(when string) {
			t.Helper()
			now := f.clock.now()
			for _, l := range leases {
				body, _, err := secretOf(l, "default")
				if err != nil || len(body) == 0 {
					t.Fatalf("%s: %v", when, err)
				}
				if i := l.Info(); i.NotBefore.After(now) || !i.NotAfter.After(now) {
					t.Fatalf("%s, to %s: the certificate is valid from %s to %s", when, now, i.NotBefore, i.NotAfter)
				}
			}
		}
		for _, step := range []struct {
			name   string
			by     time.Duration
			issued uint64 // of them all, at most
		}{{"half a minute back", -30 * time.Second, 0}, {"ten minutes ahead", 10 * time.Minute, 0}, {"twenty minutes back", -20 * time.Minute, proxies}, {"two days ahead", 2 * day, proxies}, {"two days back", -2 * day, proxies}} {
			before := f.Stats().Issued
			f.clock.suspend(step.by)
			time.Sleep(2 * tick)
			serves(step.name)
			if n := f.Stats().Issued - before; n > step.issued {
				t.Errorf("%s: %d certificates for %d proxies", step.name, n, proxies)
			} else {
				t.Logf("measured: %s: %d certificates for %d proxies", step.name, n, proxies)
			}
		}
	})
}

func TestWhileTheAuthorityIsDownTheLastGoodIsServedUntilItExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, day, 2*day)
		l := f.lease(t)
		old := version(t, l)
		f.broken.Store(true)
		time.Sleep(47 * time.Hour)
		if version(t, l) != old || f.changes.Load() != 0 {
			t.Error("the last good one is not served")
		}
		if info := l.Info(); info.Error == "" {
			t.Error("nobody can see that renewal fails")
		}
		s := f.Stats()
		if s.Failing != 1 || s.Failed < 50 || s.Failed > 23*60*2 {
			t.Errorf("stats %+v: attempts must go on, at a decent rate", s)
		}
		time.Sleep(2 * time.Hour)
		if _, _, err := secretOf(l, "default"); err == nil {
			t.Error("an expired certificate left")
		}
		f.broken.Store(false)
		time.Sleep(retryMost)
		if f.changes.Load() != 1 || version(t, l) == old {
			t.Error("not renewed once the authority was back")
		}
		if info := l.Info(); info.Error != "" {
			t.Errorf("still in error: %s", info.Error)
		}
	})
}

// A thousand proxies that try again, each at a time of its own, are one thing
// to say, and its end another.
func TestTheLogHasAnAuthorityThatIsDownOnceAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, day, 2*day)
		for range 1000 {
			version(t, f.lease(t))
		}
		f.broken.Store(true)
		time.Sleep(day)
		synctest.Wait()
		began, tried := strings.Count(f.log.String(), "were not renewed"), f.Stats().Failed
		time.Sleep(time.Hour)
		synctest.Wait()
		lines, tries := strings.Count(f.log.String(), "were not renewed")-began, f.Stats().Failed-tried
		if tries < 10_000 || lines < 50 || lines > 61 {
			t.Errorf("%d lines of %d failures in an hour, want one a minute", lines, tries)
		}
		f.broken.Store(false)
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := strings.Count(f.log.String(), "renewed again"); n != 1 {
			t.Errorf("the recovery was logged %d times, want once", n)
		}
	})
}

func TestAFirstIssueThatFailsIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, day, 2*day)
		f.broken.Store(true)
		l := f.lease(t)
		if _, _, err := secretOf(l, "default"); err == nil {
			t.Fatal("want the failure")
		}
		f.broken.Store(false)
		time.Sleep(2 * time.Second)
		if f.changes.Load() != 1 {
			t.Error("the proxy was not told")
		}
	})
}

func TestAReleasedLeaseIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, day, 2*day)
		l := f.lease(t)
		version(t, l)
		l.Release()
		l.Release()
		time.Sleep(2 * day)
		if _, _, err := secretOf(l, "default"); !errors.Is(err, errReleased) {
			t.Errorf("error %v", err)
		}
		if s := f.Stats(); f.changes.Load() != 0 || s.Leases != 0 || s.Issued != 1 {
			t.Errorf("changes %d, stats %+v", f.changes.Load(), s)
		}
	})
}

func TestAShorterRotationTakesEffectAtOnceAndSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 200
		f := newFleet(t, day, 2*day)
		for range n {
			version(t, f.lease(t))
		}
		time.Sleep(10 * time.Minute)
		if err := f.SetLifetimes(20*time.Second, 40*time.Second); err != nil {
			t.Fatal(err)
		}
		// All are overdue now: the first round takes a quarter of the rotation,
		// and no second of it has the whole fleet.
		before := int64(0)
		for s := range 5 {
			time.Sleep(time.Second)
			now := f.changes.Load()
			if step := now - before; step == 0 || step > n/2 {
				t.Errorf("%d renewals in second %d", step, s)
			}
			before = now
		}
		if before != n {
			t.Errorf("%d of %d renewed within a quarter of the rotation", before, n)
		}
		time.Sleep(20 * time.Second)
		if now := f.changes.Load(); now < 2*n {
			t.Errorf("%d renewals after the second round, want at least %d", now, 2*n)
		}
		l := f.lease(t)
		version(t, l)
		if info := l.Info(); info.NotAfter.Sub(info.NotBefore) != 40*time.Second+backdate {
			t.Errorf("a new certificate lives from %s to %s", info.NotBefore, info.NotAfter)
		}
	})
}

func TestALongerRotationNeverLetsACertificateExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 20*time.Second, 40*time.Second)
		l := f.lease(t)
		version(t, l)
		if err := f.SetLifetimes(day, 2*day); err != nil {
			t.Fatal(err)
		}
		info := l.Info()
		if !info.RenewAt.Before(info.NotAfter.Add(-10 * time.Second)) {
			t.Errorf("renewal at %s, expiry at %s", info.RenewAt, info.NotAfter)
		}
	})
}

func TestEveryRedrawKeepsTheRenewalWithinTheNewWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, day, 2*day)
		l := f.lease(t)
		held := version(t, l)
		issued := f.clock.now()
		if err := f.SetLifetimes(12*time.Hour, day); err != nil {
			t.Fatal(err)
		}
		if age := l.Info().RenewAt.Sub(issued); age < 9*time.Hour || age > 12*time.Hour {
			t.Errorf("renewal at an age of %s", age)
		}
		if version(t, l) != held {
			t.Error("an edit of the rotation changed the secret itself")
		}
	})
}

func TestLifetimesThatAreRefused(t *testing.T) {
	ca, _, _ := open(t)
	for _, o := range []Options{{}, {Rotation: day, TTL: day}, {Rotation: day}, {Rotation: -day, TTL: day}, {Rotation: time.Millisecond, TTL: day}} {
		if _, err := NewManager(ca, o); err == nil {
			t.Errorf("rotation %s with lifetime %s was accepted", o.Rotation, o.TTL)
		}
	}
}

func TestNoProxyIsTheControlPlane(t *testing.T) {
	ca, _, _ := open(t)
	m, err := NewManager(ca, Options{Rotation: day, TTL: 2 * day})
	if err != nil {
		t.Fatal(err)
	}
	for _, service := range []string{"control-plane", "", "a/b", ".."} {
		if _, err := m.Lease(service, func() {}); err == nil {
			t.Errorf("service %q got a lease", service)
		}
	}
}

// What is said of a certificate is said of the one whose body is sent, whenever
// a renewal comes in between.
func TestACertificateAndWhatIsSaidOfItAreOneLook(t *testing.T) {
	f := newFleet(t, day, 2*day)
	l := f.lease(t)
	stop := make(chan struct{})
	var renewals sync.WaitGroup
	renewals.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if err := l.renew(); err != nil {
				t.Error(err)
				return
			}
		}
	})
	defer renewals.Wait()
	defer close(stop)
	seen := make(map[string]bool)
	for len(seen) < 50 {
		c, err := l.Certificate()
		if err != nil {
			t.Fatal(err)
		}
		body, err := c.Secret("default")
		if err != nil {
			t.Fatal(err)
		}
		m := &tlsv3.Secret{}
		if err := proto.Unmarshal(body, m); err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode(m.GetTlsCertificate().GetCertificateChain().GetInlineBytes())
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		serial := hex.EncodeToString(cert.SerialNumber.Bytes())
		if serial != c.Serial() || !strings.HasSuffix(c.Version(), "."+serial) || !cert.NotAfter.Equal(c.Expires().Truncate(time.Second)) {
			t.Fatalf("the body is of %s until %s; it is said to be %s of %s until %s", serial, cert.NotAfter, c.Version(), c.Serial(), c.Expires())
		}
		seen[serial] = true
	}
}
