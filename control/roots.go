package control

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/replica"
	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/sds"
	"datapunk.dev/controlplane/sds/identity"
	"datapunk.dev/controlplane/xds"
)

// rootsEvery is how often the data directory is looked at for another root: somebody
// may have copied one there, or a command have taken a step.
const rootsEvery = 10 * time.Second

var (
	descRootPhase = prometheus.NewDesc("controlplane_root_phase",
		"1 for how far the replacement of the root is: steady, prepared (both are trusted) or activated (the next one signs).", []string{"phase"}, nil)
	descOldRoot = prometheus.NewDesc("controlplane_svids_of_other_root",
		"Connected proxies with a certificate of a root that does not sign any more.", nil, nil)
	descIntermediateExpiry = prometheus.NewDesc("controlplane_intermediate_expiry_timestamp_seconds",
		"When the intermediate expires that this replica was given in the place of the root's key; 0 if it has that.", nil, nil)
)

// collectRoots is a part of [Plane.Collect].
func (p *Plane) collectRoots(gauge func(*prometheus.Desc, float64, ...string)) {
	is := p.svids.Rotation()
	for _, phase := range []sds.Phase{sds.Steady, sds.Prepared, sds.Activated} {
		gauge(descRootPhase, number(is.Phase == phase), string(phase))
	}
	gauge(descOldRoot, float64(is.Old))
	ends := 0.0
	if at := p.svids.IntermediateExpires(); !at.IsZero() {
		ends = float64(at.Unix())
	}
	gauge(descIntermediateExpiry, ends)
}

// rootRotation gives the proxies the roots of the data directory, and knows which of
// them all proxies trust. What must not be before what is in package sds; here is who
// has to have followed before a step may be taken.
type rootRotation struct {
	log   *slog.Logger
	svids *sds.Manager
	give  func(bundle []byte)
	// acked returns a channel that is closed when every proxy has answered what is
	// published.
	acked func(context.Context) <-chan struct{}
	said  func() // is told that there is something else to say to the others

	published chan []byte // the bundle of the newest snapshot, if it is another one

	stepping sync.Mutex // one step at a time, with the look at who has followed

	mu      sync.Mutex
	since   time.Time // of the first snapshot; zero before it
	last    []byte    // what was published last
	trusted []identity.RootHash
	failure string // why the directory is not followed; empty: it is
}

func newRootRotation(log *slog.Logger, svids *sds.Manager, give func([]byte), acked func(context.Context) <-chan struct{}, said func()) *rootRotation {
	return &rootRotation{log: log, svids: svids, give: give, acked: acked, said: said, published: make(chan []byte, 1)}
}

// Run follows the data directory until ctx ends.
func (r *rootRotation) Run(ctx context.Context) {
	look := time.NewTicker(rootsEvery)
	defer look.Stop()
	var bundle []byte
	var acked <-chan struct{}
	for {
		select {
		case <-ctx.Done():
			return
		case <-look.C:
			_ = r.follow() // it is in the log
		case bundle = <-r.published:
			acked = r.acked(ctx)
		case <-acked:
			acked = nil
			r.mu.Lock()
			r.trusted = identity.HashRoots(bundle)
			r.mu.Unlock()
			r.said()
		}
	}
}

// publishes is told the bundle of each snapshot that is handed on.
func (r *rootRotation) publishes(bundle []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.since.IsZero() {
		r.since = time.Now()
	}
	if bytes.Equal(bundle, r.last) {
		return
	}
	r.last = bundle
	select {
	case <-r.published: // an older one that nobody has looked at
	default:
	}
	r.published <- bundle
}

// follow takes what the data directory has into force.
func (r *rootRotation) follow() error {
	changed, err := r.svids.Reload()
	failure := ""
	if err != nil {
		failure = err.Error()
	}
	r.mu.Lock()
	news := failure != r.failure
	r.failure = failure
	r.mu.Unlock()
	switch {
	case err != nil && news:
		r.log.Error("the roots of the data directory are not followed: those in force stay", "err", err)
	case err == nil && changed:
		r.adopted()
	}
	return err
}

// adopted has the proxies given what was taken into force.
func (r *rootRotation) adopted() {
	is := r.svids.Rotation()
	r.log.Info("the roots changed", "phase", is.Phase, "first", is.First.String(), "next", nameOf(is.Next), "signs", is.Signs().String())
	r.give(r.svids.Roots())
	r.said()
}

func nameOf(h identity.RootHash) string {
	if h == (identity.RootHash{}) {
		return ""
	}
	return h.String()
}

// allTrust reports whether all proxies of this replica trust a root.
func (r *rootRotation) allTrust(root identity.RootHash) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Contains(r.trusted, root)
}

// returning reports whether proxies of before the start may not be back yet: whoever
// counts then counts too few.
func (r *rootRotation) returning(now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.svids.IsNew() && (r.since.IsZero() || now.Sub(r.since) < reconnectFor)
}

// RootStatus is how far the replacement of the root is.
type RootStatus struct {
	sds.Rotation
	// Trusted is whether all connected proxies of this replica trust all roots in force.
	Trusted bool
	// Pinned are the Envoys that accept no control plane of the next root.
	Pinned  []string
	Failure string // why the data directory is not followed; empty: it is
	Bundle  []byte // the certificates, as PEM
}

// Roots returns how far the replacement of the root is on this replica.
func (p *Plane) Roots() RootStatus {
	if p.roots == nil {
		return RootStatus{}
	}
	s := RootStatus{Rotation: p.svids.Rotation(), Bundle: p.svids.Roots()}
	s.Trusted = p.roots.allTrust(s.First)
	if s.Phase != sds.Steady {
		s.Trusted = s.Trusted && p.roots.allTrust(s.Next)
		s.Pinned = p.pinnedTo(s.Rotation)
	}
	p.roots.mu.Lock()
	s.Failure = p.roots.failure
	p.roots.mu.Unlock()
	return s
}

// pinnedTo are the Envoys whose bootstrap does not have the next root, or does not say.
func (p *Plane) pinnedTo(r sds.Rotation) (nodes []string) {
	for _, proxy := range p.xds.Proxies() {
		if proxy.Profile.Kind != resource.Proxyless && !slices.Contains(proxy.Roots, r.Next.ID()) {
			nodes = append(nodes, proxy.Node)
		}
	}
	return nodes
}

// rootsForPeers is what the other replicas are told.
func (p *Plane) rootsForPeers() *replica.Roots {
	if p.roots == nil {
		return nil
	}
	is := p.svids.Rotation()
	out := &replica.Roots{Trusted: []string{}, Signs: is.Signs().String(), Until: is.Until, Old: is.Old, Returning: p.roots.returning(time.Now())}
	for _, root := range []identity.RootHash{is.First, is.Next} {
		if root != (identity.RootHash{}) && p.roots.allTrust(root) {
			out.Trusted = append(out.Trusted, root.String())
		}
	}
	if is.Phase != sds.Steady {
		out.Pinned = len(p.pinnedTo(is))
	}
	return out
}

// RootStep is a step of the replacement of the root.
type RootStep string

// The steps: see package sds.
const (
	RootPrepare  RootStep = "prepare"
	RootActivate RootStep = "activate"
	RootRetire   RootStep = "retire"
	RootBack     RootStep = "back"
)

var errNoRoots = errors.New("xDS is plaintext: there are no certificates")

// StepRoot takes a step, if all who have to have followed the one before it have. The
// other replicas take it each at their own operator's word.
func (p *Plane) StepRoot(ctx context.Context, step RootStep) error {
	if p.roots == nil {
		return errNoRoots
	}
	p.roots.stepping.Lock()
	defer p.roots.stepping.Unlock()
	if err := p.roots.follow(); err != nil {
		return err
	}
	others, err := p.otherReplicas()
	if err != nil {
		return err
	}
	is := p.svids.Rotation()
	switch {
	case step == RootPrepare:
		err = p.svids.Prepare()
	case (step == RootActivate && is.Phase == sds.Prepared || step == RootRetire && is.Phase == sds.Activated) && p.roots.returning(time.Now()):
		err = fmt.Errorf("proxies of before the start of this control plane may not be back yet: try again %s after it", reconnectFor)
	case step == RootActivate && is.Phase == sds.Prepared:
		if err = p.everyoneAnswers(ctx); err != nil {
			break
		}
		if err = mayActivate(is, p.roots.allTrust(is.Next), others); err == nil {
			err = p.svids.Activate()
		}
	case step == RootActivate:
		err = p.svids.Activate() // says why not
	case step == RootRetire && is.Phase == sds.Activated:
		if err = mayRetire(is, time.Now(), p.pinnedTo(is), others); err == nil {
			err = p.wantsNext(is)
		}
		if err == nil {
			err = p.svids.Retire()
		}
	case step == RootRetire:
		err = p.svids.Retire() // says why not
	case step == RootBack:
		if err = mayGoBack(is, time.Now(), others); err == nil {
			err = p.svids.StepBack()
		}
	default:
		err = fmt.Errorf("%q is no step: want prepare, activate, retire or back", step)
	}
	if err != nil {
		return err
	}
	p.roots.adopted()
	return nil
}

// mayActivate says who does not trust the next root yet.
func mayActivate(is sds.Rotation, trusted bool, others []replica.Member) error {
	if !trusted {
		return errors.New("not every connected proxy has acknowledged the next root: see controlplane status")
	}
	return each(others, func(r *replica.Roots) string {
		if r.Returning {
			return returningText
		}
		if !slices.Contains(r.Trusted, is.Next.String()) {
			return "does not have the next root, or not all of its proxies have acknowledged it: copy next-ca.pem and next-ca-key.pem into its data directory"
		}
		return ""
	})
}

// mayRetire says who cannot do without the first root yet.
func mayRetire(is sds.Rotation, now time.Time, pinned []string, others []replica.Member) error {
	switch {
	case is.Old > 0:
		return fmt.Errorf("%d proxies hold a certificate of the first root: they are renewed within a quarter of cert_rotation", is.Old)
	case now.Before(is.Until):
		return fmt.Errorf("certificates of the first root may be in use until %s", is.Until.UTC().Format(time.RFC3339))
	case len(pinned) > 0:
		return fmt.Errorf("%d Envoys accept no control plane of the next root, %s: give them a new bootstrap", len(pinned), some(pinned))
	}
	return each(others, func(r *replica.Roots) string {
		switch {
		case r.Returning:
			return returningText
		case r.Signs != is.Next.String():
			return "signs with the first root"
		case r.Old > 0:
			return fmt.Sprintf("has %d proxies with a certificate of the first root", r.Old)
		case now.Before(r.Until):
			return "may have proxies with certificates of the first root until " + r.Until.UTC().Format(time.RFC3339)
		case r.Pinned > 0:
			return fmt.Sprintf("has %d Envoys that accept no control plane of the next root", r.Pinned)
		}
		return ""
	})
}

// mayGoBack says who would be left with certificates that nobody trusts.
func mayGoBack(is sds.Rotation, now time.Time, others []replica.Member) error {
	if is.Phase != sds.Prepared {
		return nil
	}
	return each(others, func(r *replica.Roots) string {
		switch {
		case r.Returning:
			return returningText
		case r.Signs == is.Next.String():
			return "signs with the next root"
		case r.Old > 0 || now.Before(r.Until):
			return "may have proxies with certificates of the next root until " + r.Until.UTC().Format(time.RFC3339)
		}
		return ""
	})
}

const returningText = "was started lately, and does not know of all of its proxies yet"

// everyoneAnswers is an error unless every connected proxy has answered what is
// published now, and none has refused a secret.
func (p *Plane) everyoneAnswers(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, answerPatience)
	defer cancel()
	if !within(ctx, p.xds.Acked(ctx, nil)) {
		return errors.New("not every connected proxy has acknowledged what it was sent: see controlplane status")
	}
	for _, proxy := range p.xds.Proxies() {
		if proxy.Types[resource.Secret.String()].State == xds.Rejected {
			return fmt.Errorf("%s refuses a secret: see controlplane status %[1]s", proxy.Node)
		}
	}
	return nil
}

// answerPatience is how long a step waits for proxies that have something to answer.
const answerPatience = 5 * time.Second

// wantsNext says where the first root is wanted by name.
func (p *Plane) wantsNext(is sds.Rotation) error {
	wanted := []*policy.Mesh{p.mesh.Load()}
	if pin := p.pinIs(); pin != nil && pin.behind != nil {
		wanted = append(wanted, pin.behind) // it comes into force by itself
	}
	for _, m := range wanted {
		if acceptRoot(m, p.svids.RootPEM(is.Next)) != nil {
			return fmt.Errorf("the mesh file (revision %s) wants the first root: set security.mtls.root to %s", m.Revision, is.Next)
		}
	}
	if p.ExpectRoot != nil && *p.ExpectRoot != is.Next {
		return fmt.Errorf("--expect-root wants the first root: start with %s", is.Next)
	}
	return nil
}

// otherReplicas are all but this one, which have to be known.
func (p *Plane) otherReplicas() ([]replica.Member, error) {
	if p.replicas == nil {
		return nil, nil
	}
	v := p.replicas.View()
	if v == nil || v.Trouble != "" {
		return nil, errors.New("it is not known how far the other replicas are: Consul does not answer")
	}
	return v.Others(), nil
}

// each asks of each replica why a step cannot be taken yet.
func each(others []replica.Member, why func(*replica.Roots) string) error {
	for _, m := range others {
		if m.Roots == nil {
			return fmt.Errorf("replica %s does not say how far it is: it is of an older version", m.Name)
		}
		if text := why(m.Roots); text != "" {
			return fmt.Errorf("replica %s %s", m.Name, text)
		}
	}
	return nil
}

// some are the first few of a list of names.
func some(names []string) string {
	const most = 5
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return strings.Join(names[:most], ", ") + " and others"
}

// intermediateSoon is from when /readyz says that the intermediate of this replica ends.
const intermediateSoon = 7 * 24 * time.Hour

// rootsReport says in the words of /readyz what is wrong with the roots.
func (p *Plane) rootsReport() (holding, problems []string) {
	if p.roots == nil {
		return nil, nil
	}
	p.roots.mu.Lock()
	failure := p.roots.failure
	p.roots.mu.Unlock()
	if failure != "" {
		holding = append(holding, "the roots as they were last: "+failure)
	}
	if ends := p.svids.IntermediateExpires(); !ends.IsZero() && time.Until(ends) < intermediateSoon {
		problems = append(problems, "no certificate is issued from "+ends.UTC().Format(time.RFC3339)+" on: the intermediate of this replica ends, see controlplane roots intermediate")
	}
	return holding, problems
}
