package control

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"datapunk.dev/controlplane/replica"
	"datapunk.dev/controlplane/sds/token"
	"datapunk.dev/controlplane/xds"
)

const (
	// fleetAge is how old what is known of the fleet may be that is shown: more who ask
	// cost the other replicas no more.
	fleetAge = time.Second
	// askTime is how long another replica may take to answer.
	askTime = 5 * time.Second
	// maxAsked bounds how many others are asked: there are five or so.
	maxAsked = 16
)

// FleetStatus is the proxies of all replicas.
type FleetStatus struct {
	Proxies []xds.ProxyStatus // ordered by node
	// Unanswered are the replicas whose proxies are not among them, and why.
	Unanswered []Unanswered
}

// Unanswered is a replica that was asked, and did not answer.
type Unanswered struct{ Replica, Why string }

// fleetView keeps the last answer for a moment.
type fleetView struct {
	mu sync.Mutex
	at time.Time
	is FleetStatus
}

// Fleet returns the state of each proxy, whichever replica it is connected to. It is an
// error as long as it is not known which replicas there are.
func (p *Plane) Fleet(ctx context.Context) (FleetStatus, error) {
	if p.replicas == nil {
		return FleetStatus{Proxies: p.xds.Proxies()}, nil
	}
	v := p.replicas.View()
	if v == nil || !v.Answered() {
		return FleetStatus{}, errors.New("it is not known yet which replicas there are")
	}
	p.fleet.mu.Lock() // who comes meanwhile has the same answer
	defer p.fleet.mu.Unlock()
	if time.Since(p.fleet.at) >= fleetAge {
		is := p.askFleet(ctx, v.Others())
		if ctx.Err() != nil {
			return is, ctx.Err() // of this one who asked: the next one asks anew
		}
		p.fleet.is, p.fleet.at = is, time.Now()
	}
	return p.fleet.is, nil
}

// askFleet asks the other replicas, all at a time.
func (p *Plane) askFleet(ctx context.Context, others []replica.Member) FleetStatus {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	s := FleetStatus{}
	for _, m := range others[min(len(others), maxAsked):] {
		s.Unanswered = append(s.Unanswered, Unanswered{m.Name, fmt.Sprintf("it is not asked: there are over %d others", maxAsked)})
	}
	others = others[:min(len(others), maxAsked)]
	answers, failures := make([][]xds.ProxyStatus, len(others)), make([]error, len(others))
	var asking sync.WaitGroup
	for i, m := range others {
		asking.Go(func() { answers[i], failures[i] = p.ask(ctx, m.Address) })
	}
	asking.Wait()
	own := p.xds.Proxies()
	for i := range own {
		own[i].Replica = p.registrations.replica
	}
	for i, m := range others {
		if failures[i] != nil {
			s.Unanswered = append(s.Unanswered, Unanswered{m.Name, failures[i].Error()})
		}
		for j := range answers[i] {
			answers[i][j].Replica = m.Name
		}
	}
	s.Proxies = merged(append(answers, own))
	return s
}

// merged are the proxies of all replicas, each once: one that has just moved may be at
// two of them.
func merged(lists [][]xds.ProxyStatus) []xds.ProxyStatus {
	all := slices.Concat(lists...)
	slices.SortStableFunc(all, func(a, b xds.ProxyStatus) int {
		return cmp.Or(cmp.Compare(a.Node, b.Node), b.Connected.Compare(a.Connected))
	})
	return slices.CompactFunc(all, func(a, b xds.ProxyStatus) bool { return a.Node == b.Node })
}

// ask returns the proxies of the replica at an address.
func (p *Plane) ask(ctx context.Context, address string) ([]xds.ProxyStatus, error) {
	switch {
	case p.svids == nil:
		return nil, errors.New("replicas know each other by TLS, and this one has none")
	case address == "":
		return nil, errors.New("its xDS port is on no network")
	}
	raw, err := p.tokens.MintPeer(p.registrations.replica)
	if err != nil {
		return nil, err
	}
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(credentials.NewTLS(p.svids.PeerTLS())), grpc.WithNoProxy())
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	list, err := replica.Proxies(token.NewContext(ctx, raw), conn)
	if err != nil {
		return nil, err
	}
	all := make([]xds.ProxyStatus, len(list))
	for i, one := range list {
		if err := json.Unmarshal(one, &all[i]); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// peerCalls refuses a call that no replica makes.
func (p *Plane) peerCalls(ctx context.Context) error {
	from, ok := peer.FromContext(ctx)
	if !ok {
		return status.Error(codes.Unauthenticated, "who are you?")
	}
	if _, ok := from.AuthInfo.(credentials.TLSInfo); !ok {
		return status.Error(codes.FailedPrecondition, "replicas speak over TLS only")
	}
	raw, err := token.FromContext(ctx)
	if err == nil {
		_, err = p.tokens.VerifyPeer(raw)
	}
	if err != nil {
		p.ClientLog.Warn("a call that is for replicas was refused", "peer", from.Addr.String(), "err", err)
		return status.Error(codes.Unauthenticated, "this call is for control planes of this mesh")
	}
	return nil
}

// proxiesForPeers is what other replicas are told.
func (p *Plane) proxiesForPeers() ([]json.RawMessage, error) {
	proxies := p.xds.Proxies()
	all := make([]json.RawMessage, len(proxies))
	for i := range proxies {
		var err error
		if all[i], err = json.Marshal(proxies[i]); err != nil {
			return nil, err
		}
	}
	return all, nil
}
