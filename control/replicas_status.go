package control

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"datapunk.dev/controlplane/replica"
)

var (
	descLeader = prometheus.NewDesc("controlplane_leader",
		"1 on the replica that does what must happen once. Its sum over all replicas is 1.", nil, nil)
	descReplicas = prometheus.NewDesc("controlplane_replicas",
		"Control planes of this mesh that live, as this one knows.", nil, nil)
	descReplicaReady = prometheus.NewDesc("controlplane_replica_ready",
		"1 while this replica is in touch with the others; else what they share is as it was last.", nil, nil)
	descApart = prometheus.NewDesc("controlplane_replica_disagreement_seconds",
		"For how long another replica has served another mesh file or catalog than this one: the longest of them.", nil, nil)
	descEnvoys = prometheus.NewDesc("controlplane_envoys",
		"Envoys that are connected to this replica.", nil, nil)
	descMoved = prometheus.NewDesc("controlplane_xds_moved_streams_total",
		"Streams that were ended so that their proxies go to a replica that has fewer.", nil, nil)
)

// ReplicaStatus is what this control plane knows of the others.
type ReplicaStatus struct {
	Leadership Leadership
	Self       string
	Leader     string // empty: none
	Leads      bool
	Trouble    string // why it is not in touch with them; empty: it is
	Step       int    // of mTLS, from off to on
	Steps      int
	Members    []ReplicaMember
}

// ReplicaMember is one of them.
type ReplicaMember struct {
	replica.Member
	Apart time.Duration // for so long it serves something else
}

// Replicas returns what this control plane knows of the others.
func (p *Plane) Replicas() ReplicaStatus {
	own := p.member()
	if p.replicas == nil {
		s := ReplicaStatus{
			Leadership: cmp.Or(p.Leader, LeaderSelf), Self: own.Name, Leads: p.leads(), Steps: len(stageWay) - 1,
			Members: []ReplicaMember{{Member: own}},
		}
		if s.Leads {
			s.Leader = own.Name
		}
		return s
	}
	s := ReplicaStatus{Leadership: LeaderConsul, Self: own.Name, Steps: len(stageWay) - 1}
	v := p.replicas.View()
	if v == nil {
		v = &replica.View{Self: own.Name, Trouble: "it has not begun"}
	}
	s.Leader, s.Leads, s.Trouble = v.Leader, v.Leads, v.Trouble
	if v.Stages != nil {
		s.Step = v.Stages.At
	}
	apart := p.agreement.compare(v, time.Now())
	for _, m := range v.Members {
		if m.Name == own.Name {
			m = own // what it has told may be a second old
		}
		s.Members = append(s.Members, ReplicaMember{Member: m, Apart: apart[m.Name]})
	}
	if v.Member(own.Name) == nil {
		s.Members = append(s.Members, ReplicaMember{Member: own})
	}
	return s
}

// member is what this replica says of itself.
func (p *Plane) member() replica.Member {
	m := replica.Member{Name: p.registrations.replica, Address: p.advertised(), Started: p.started, Streams: p.xds.Envoys()}
	loop := p.loop.Status()
	m.Edit = editForPeers(loop.Waves)
	if snapshot := loop.Snapshot; snapshot != nil {
		m.Mesh, m.Catalog = snapshot.Input.Mesh.Revision, snapshot.Input.Catalog.Digest().String()
		p.agreement.observe(stateOf(m.Mesh, m.Catalog), time.Now())
	}
	if p.replicas != nil {
		m.Stage = p.replicas.stages.acknowledged()
	}
	m.Draining, m.Roots = p.draining.Load(), p.rootsForPeers()
	shared, err := p.xds.Shared()
	if err != nil {
		p.ClientLog.Error("the other replicas are not told what is in quarantine", "err", err)
	}
	m.Quarantined = shared
	return m
}

// advertised is where other replicas reach the xDS port.
func (p *Plane) advertised() string {
	t := targetOf(p.Catalog, p.mesh.Load())
	if t.file != "" {
		return ""
	}
	host, port, ok := ownAddress(p.XDSAddress, t.consul.address)
	if !ok {
		return ""
	}
	return net.JoinHostPort(host, strconv.Itoa(int(port)))
}

// collectReplicas is a part of [Plane.Collect].
func (p *Plane) collectReplicas(gauge, counter func(*prometheus.Desc, float64, ...string)) {
	s := p.Replicas()
	var longest time.Duration
	for _, m := range s.Members {
		longest = max(longest, m.Apart)
	}
	gauge(descLeader, number(s.Leads))
	gauge(descReplicas, float64(len(s.Members)))
	gauge(descReplicaReady, number(s.Trouble == ""))
	gauge(descApart, longest.Seconds())
	gauge(descEnvoys, float64(p.xds.Envoys()))
	counter(descMoved, float64(p.xds.Moved()))
}

// leads reports whether this replica does what must happen once.
func (p *Plane) leads() bool {
	if p.replicas == nil {
		return p.Leader != LeaderNone
	}
	v := p.replicas.View()
	return v != nil && v.Leads
}

// seeReplicas is told what this replica knows of all.
func (p *Plane) seeReplicas(v *replica.View) {
	p.pins.seen(v)
	p.agreement.compare(v, time.Now())
	if v.Trouble != "" || len(v.Members) == 0 {
		return // what was agreed on stays
	}
	others := make(map[string]json.RawMessage)
	for _, m := range v.Others() {
		others[m.Name] = m.Quarantined
	}
	if err := p.xds.Agree(v.Self, others); err != nil {
		p.ClientLog.Warn("a replica of another version? what it says is not followed", "err", err)
	}
}

// apartTime is from when /readyz says that two replicas do not serve the same.
const apartTime = time.Minute

// replicaReport says in the words of /readyz what the replicas do not agree on.
func (p *Plane) replicaReport() (holding, problems []string) {
	if p.replicas == nil {
		return nil, nil
	}
	s := p.Replicas()
	if s.Trouble != "" {
		holding = append(holding, "what the replicas share, as it was last: "+s.Trouble)
	}
	if trouble := p.pins.troubleIs(); trouble != "" {
		problems = append(problems, "what Consul has as pinned for all replicas is not followed: "+trouble)
	}
	for _, m := range s.Members {
		if m.Apart >= apartTime {
			problems = append(problems, fmt.Sprintf("replica %s has served another mesh file or catalog than this one for %s: see controlplane status", m.Name, m.Apart.Truncate(time.Second)))
		}
	}
	return holding, problems
}
