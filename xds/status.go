package xds

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/xds/wire"
)

// State says whether a proxy has the configuration that it should have.
type State string

// The states of a type.
const (
	NotSent  State = "NOT_SENT" // the proxy has not asked, or there was nothing to send
	Pending  State = "PENDING"  // sent and not acknowledged, or waiting to be sent
	Synced   State = "SYNCED"
	Rejected State = "REJECTED" // the proxy refuses a resource and works with the one before
)

// ProxyStatus is what is known of one connected proxy.
type ProxyStatus struct {
	Node      string    `json:"node"`
	Service   string    `json:"service"`
	Peer      string    `json:"peer"` // the address of its connection
	Agent     string    `json:"agent,omitempty"`
	Version   string    `json:"version,omitempty"` // of the agent
	Protocol  string    `json:"protocol"`          // "delta" or "sotw"
	Connected time.Time `json:"connected"`
	// Replica is the control plane that it is connected to, where there are several;
	// xds does not know it.
	Replica string `json:"replica,omitempty"`

	Profile resource.Profile `json:"profile"`
	// Missing says what its configuration lacks for want of metadata.
	Missing []string `json:"missing,omitempty"`
	// Roots are the roots that it accepts a control plane of, as its bootstrap says: the
	// first 8 bytes of their hashes.
	Roots []string `json:"roots,omitempty"`
	// Types is keyed by the name of a type, as [resource.Type.String] has it.
	Types       map[string]TypeStatus `json:"types"`
	Certificate *CertificateStatus    `json:"certificate,omitempty"`

	aggregated bool // of ADS
}

// statusJSON is a [ProxyStatus] with its profile in the words of the bootstrap's
// metadata.
type statusJSON struct {
	plainStatus
	Profile profileJSON `json:"profile"`
}

type plainStatus ProxyStatus

type profileJSON struct {
	Kind         string `json:"kind"`
	Address      string `json:"address,omitempty"`
	Region       string `json:"region,omitempty"`
	Zone         string `json:"zone,omitempty"`
	AppAddress   string `json:"app_address,omitempty"`
	AppPort      uint16 `json:"app_port,omitempty"`
	MeshPort     uint16 `json:"mesh_port,omitempty"`
	OutboundPort uint16 `json:"outbound_port,omitempty"`
	MetricsPort  uint16 `json:"metrics_port,omitempty"`
}

// MarshalJSON implements [json.Marshaler].
func (p ProxyStatus) MarshalJSON() ([]byte, error) {
	return json.Marshal(statusJSON{plainStatus(p), profileJSON{
		p.Profile.Kind.String(), p.Profile.Address, p.Profile.Region, p.Profile.Zone,
		p.Profile.AppAddress, p.Profile.AppPort, p.Profile.MeshPort, p.Profile.OutboundPort, p.Profile.MetricsPort,
	}})
}

// UnmarshalJSON reads what MarshalJSON wrote, of another control plane. A kind that is
// not known here is an error: nobody could say what such a client is.
func (p *ProxyStatus) UnmarshalJSON(data []byte) error {
	var s statusJSON
	if err := json.Unmarshal(data, &s); err != nil {
		return err
	}
	kind, ok := resource.KindNamed(s.Profile.Kind)
	if !ok {
		return fmt.Errorf("a client of kind %q", s.Profile.Kind)
	}
	*p = ProxyStatus(s.plainStatus)
	p.Profile = resource.Profile{
		Service: p.Service, Kind: kind, Address: s.Profile.Address, Region: s.Profile.Region, Zone: s.Profile.Zone, AppAddress: s.Profile.AppAddress,
		AppPort: s.Profile.AppPort, MeshPort: s.Profile.MeshPort, OutboundPort: s.Profile.OutboundPort, MetricsPort: s.Profile.MetricsPort,
	}
	return nil
}

// TypeStatus is the state of one type of resources on a proxy.
type TypeStatus struct {
	State        State  `json:"state"`
	Sent         string `json:"version_sent,omitempty"`
	Acknowledged string `json:"version_acknowledged,omitempty"`
	LastNack     *Nack  `json:"last_nack,omitempty"`
	// Refused are the contents that the proxy does not take, by name the version; of as
	// many as are told of a response.
	Refused map[string]string `json:"-"`
	// Quarantined are contents that the proxy would have, had others not
	// refused them. Where it has the substitutes it is SYNCED.
	Quarantined []Quarantined `json:"quarantined,omitempty"`
}

// Nack is one response that a proxy refused.
type Nack struct {
	Time    time.Time `json:"time"`
	Type    string    `json:"type"`
	Nonce   string    `json:"nonce"`
	Version string    `json:"version"`
	// Message is the proxy's, without what it puts in at random.
	Message   string   `json:"message"`
	Resources []string `json:"resources"`                // of the response, those that changed something
	More      int      `json:"more_resources,omitempty"` // how many are not among them
	// Resource is the one that was refused, and Source the place in the mesh
	// file that made it; empty while that is not certain.
	Resource string `json:"resource,omitempty"`
	Source   string `json:"source,omitempty"`
	// Cause is what on the proxy's own machine or in its build made it refuse
	// the resource, a word of cause.go; empty: the content, as far as is known.
	Cause string `json:"cause,omitempty"`
	// Final is whether nothing of the response is tried again in smaller ones.
	Final bool `json:"-"`
}

// CertificateStatus is the certificate that a proxy was sent. Serial and
// Expires are unknown for one that it kept from an earlier stream.
type CertificateStatus struct {
	Version string     `json:"version"`
	Serial  string     `json:"serial,omitempty"`
	Expires *time.Time `json:"expires,omitempty"`
}

// streamStatus is what a stream shows of itself: the only state that another
// goroutine reads.
type streamStatus struct {
	mu    sync.Mutex
	slot  *slot // nil until the node is known
	view  *view // the newest that the stream has looked at
	proxy ProxyStatus
	types [resource.NumTypes]typeStatus
}

// typeStatus is a [TypeStatus] whose versions are no text yet.
type typeStatus struct {
	TypeStatus
	sent, acknowledged       digest
	wasSent, wasAcknowledged bool
	pending                  time.Time // since when it is PENDING without an answer of the client
}

func (t *streamStatus) opened(peer string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.proxy.Peer, t.proxy.Connected = peer, time.Now()
	for i := range t.types {
		t.types[i].State = NotSent
	}
}

// began returns when the stream did.
func (t *streamStatus) began() time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.proxy.Connected
}

func (t *streamStatus) identified(n *wire.Node, sl *slot, pastNacks map[resource.Ref]*pastNack) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.slot = sl
	t.proxy.Node, t.proxy.Service = n.ID, n.Cluster
	t.proxy.Agent, t.proxy.Version = n.Agent, n.Version
	t.proxy.Profile, t.proxy.Roots = sl.profile, n.Roots()
	for ref, r := range pastNacks {
		if last := t.types[ref.Type].LastNack; last == nil || r.nack.Time.After(last.Time) {
			t.types[ref.Type].LastNack = r.nack
		}
	}
}

func (t *streamStatus) sent(typ resource.Type, version digest) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.types[typ].sent, t.types[typ].wasSent = version, true
}

func (t *streamStatus) acknowledged(typ resource.Type, version digest) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.types[typ].acknowledged, t.types[typ].wasAcknowledged = version, true
	t.types[typ].pending = time.Now()
}

func (t *streamStatus) rejected(typ resource.Type, n *Nack) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.types[typ].LastNack = n
	t.types[typ].pending = time.Now()
}

func (t *streamStatus) certified(version, serial string, expires time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.proxy.Certificate = &CertificateStatus{Version: version, Serial: serial}
	if !expires.IsZero() {
		t.proxy.Certificate.Expires = &expires
	}
}

// update is called by the stream after it pushed.
func (t *streamStatus) update(s *stream, v *view) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.view, t.proxy.Missing = v, v.own.missing
	for i := range s.types {
		ts := &s.types[i]
		state := ts.state(v)
		if state == Pending && t.types[i].State != Pending {
			t.types[i].pending = time.Now()
		}
		t.types[i].State = state
		if state == Rejected || t.types[i].Refused != nil {
			t.types[i].Refused = ts.refused()
		}
		if ts.base.known() && (ts.base.scope.fallbacks != nil || ts.base.own.fallbacks != nil || t.types[i].Quarantined != nil) {
			t.types[i].Quarantined = ts.quarantined()
		}
	}
}

// refused returns the contents that the client does not take; nil: there are none.
func (ts *typeState) refused() map[string]string {
	var refused map[string]string
	for name, s := range ts.names {
		if s.rejection == nil || len(refused) >= maxNackResources {
			continue
		}
		if refused == nil {
			refused = make(map[string]string)
		}
		refused[name] = s.rejection.version
	}
	return refused
}

// quarantined returns what the client asked for and is not served, by name.
func (ts *typeState) quarantined() []Quarantined {
	var list []Quarantined
	for name, s := range ts.base.fallbacks() {
		if ts.sub.has(name) {
			list = append(list, Quarantined{
				Name: name, Version: s.withheld.Version, Source: s.cause.source, Message: s.cause.message, Since: s.cause.since,
			})
		}
	}
	slices.SortFunc(list, func(a, b Quarantined) int { return cmp.Compare(a.Name, b.Name) })
	return list
}

// state says how far the client is from the view.
func (ts *typeState) state(v *view) State {
	if !ts.sub.active || !ts.base.known() {
		return NotSent
	}
	for _, d := range ts.names {
		if d.rejection != nil {
			return Rejected
		}
	}
	if len(ts.inflight) > 0 || !ts.quiescent(v) {
		return Pending
	}
	return Synced
}

// Proxies returns the status of every connected proxy, ordered by node. The
// streams of one that has several are one: the separate ones without ADS, those
// of gRPC's own clients, and the one on which a client fetches its certificate.
func (s *Server) Proxies() []ProxyStatus {
	s.mu.Lock()
	streams := make([]*stream, 0, len(s.streams))
	for st := range s.streams {
		streams = append(streams, st)
	}
	s.mu.Unlock()

	all := make([]ProxyStatus, 0, len(streams))
	for _, st := range streams {
		if p, ok := st.snapshotStatus(); ok {
			all = append(all, p)
		}
	}
	slices.SortFunc(all, func(a, b ProxyStatus) int {
		return cmp.Or(cmp.Compare(a.Node, b.Node), compareADS(a, b), a.Connected.Compare(b.Connected))
	})
	merged := all[:0]
	for _, p := range all {
		if n := len(merged); n > 0 && merged[n-1].Node == p.Node {
			merged[n-1].merge(p)
			continue
		}
		merged = append(merged, p)
	}
	return merged
}

// compareADS puts ADS first: it is what says most of a proxy.
func compareADS(a, b ProxyStatus) int {
	switch {
	case a.aggregated == b.aggregated:
		return 0
	case a.aggregated:
		return -1
	}
	return 1
}

func (s *stream) snapshotStatus() (ProxyStatus, bool) {
	t := &s.status
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.slot == nil {
		return ProxyStatus{}, false
	}
	p := t.proxy
	p.Protocol, p.aggregated = s.protocol.String(), s.aggregated
	p.Types = make(map[string]TypeStatus, len(t.types))
	for i, ts := range t.types {
		ts.State = t.stateNowLocked(resource.Type(i))
		if ts.wasSent {
			ts.Sent = ts.sent.String()
		}
		if ts.wasAcknowledged {
			ts.Acknowledged = ts.acknowledged.String()
		}
		p.Types[resource.Type(i).String()] = ts.TypeStatus
	}
	return p, true
}

// stateNowLocked is the state of a type with respect to the newest view.
func (t *streamStatus) stateNowLocked(typ resource.Type) State {
	state := t.types[typ].State
	// A view that was published and that the stream is about to look at.
	if next := t.slot.load(); state == Synced && next != t.view && next.of(typ) != t.view.of(typ) {
		return Pending
	}
	return state
}

// merge adds what another stream of the same proxy knows. Of one type on both
// the worse state stands.
func (p *ProxyStatus) merge(o ProxyStatus) {
	worse := []State{NotSent, Synced, Pending, Rejected}
	for name, ts := range o.Types {
		if slices.Index(worse, ts.State) > slices.Index(worse, p.Types[name].State) {
			p.Types[name] = ts
		}
	}
	if p.Certificate == nil {
		p.Certificate = o.Certificate
	}
}
