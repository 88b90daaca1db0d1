package control

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"datapunk.dev/controlplane/bootstrap"
	"datapunk.dev/controlplane/listen"
	"datapunk.dev/controlplane/register"
	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/sds/join"
	"datapunk.dev/controlplane/sds/token"
	"datapunk.dev/controlplane/sidecar/api"
)

// leaveTime bounds how long a leave waits for the callers. One that does not
// answer is either gone, or no better off for a longer wait.
const leaveTime = 10 * time.Second

// machines serves what machines ask for beside ADS.
type machines struct {
	plane   *Plane
	provers map[api.Kind]prover
	// Joins that fail, by host, and other calls, by node.
	failures *rates
	calls    *rates
	reports  *rates // of the health of applications, by node
}

// prover finds out what a credential proves.
type prover interface {
	// Prove returns what the credential lets a machine be that asks so. The error
	// is for our log, and for the client if it is a [join.Refusal].
	Prove(ctx context.Context, credential string, r join.Request) (join.Proof, error)
}

func newMachines(p *Plane, provers map[api.Kind]prover) *machines {
	return &machines{plane: p, provers: provers, failures: newRates(20, 10*time.Second), calls: newRates(20, time.Second), reports: newRates(10, time.Second/2)}
}

// errJoin is all that a client is told whose credential proves nothing.
var errJoin = status.Error(codes.Unauthenticated, "the credential does not let this machine join")

// Join implements [api.Server].
func (m *machines) Join(ctx context.Context, r *api.JoinRequest) (*api.Joined, error) {
	from, ok := peer.FromContext(ctx)
	if !ok {
		return nil, errJoin
	}
	if _, ok := from.AuthInfo.(credentials.TLSInfo); !ok {
		return nil, status.Error(codes.FailedPrecondition, "machines join over TLS only")
	}
	host := listen.HostOf(from.Addr)
	if !m.failures.left(host, time.Now()) {
		return nil, status.Error(codes.ResourceExhausted, "too many joins from here have failed: one more each 10 s")
	}
	joined, err := m.join(ctx, r, host)
	if err == nil {
		m.plane.joined.Add(1)
		m.plane.ClientLog.Info("a machine joined", "service", joined.Service, "node", joined.Node, "kind", r.Kind, "peer", from.Addr.String())
		return joined, nil
	}
	m.plane.joinsRefused.Add(1)
	m.failures.allow(host, time.Now())
	m.plane.ClientLog.Warn("a machine was refused to join", "service", r.Service, "node", r.Node, "kind", r.Kind, "peer", from.Addr.String(), "err", err)
	var refusal join.Refusal
	if errors.As(err, &refusal) {
		return nil, status.Error(codes.PermissionDenied, refusal.Error())
	}
	if _, ok := status.FromError(err); ok {
		return nil, err
	}
	return nil, errJoin
}

func (m *machines) join(ctx context.Context, r *api.JoinRequest, host string) (*api.Joined, error) {
	raw, err := token.FromContext(ctx)
	if err != nil {
		return nil, err
	}
	// What no token can be made for is no use of a credential.
	if r.Service != "" && r.Node != "" {
		if err := m.plane.tokens.Check(r.Service, r.Node); err != nil {
			return nil, join.Refusal(err.Error())
		}
	}
	prover := m.provers[r.Kind]
	if prover == nil {
		return nil, join.Refusal(fmt.Sprintf("this control plane takes no credential of the kind %q", r.Kind))
	}
	proof, err := prover.Prove(ctx, raw, join.Request{Service: r.Service, Node: r.Node, Attempt: r.Attempt})
	if err != nil {
		return nil, err
	}
	// The names of nodes are for whoever joins to choose, but for those in use.
	for _, seen := range m.plane.xds.Sightings(proof.Node) {
		if seen.Service != proof.Service || seen.Host != host {
			return nil, status.Errorf(codes.AlreadyExists, "another machine is connected as the node %q", proof.Node)
		}
	}
	next, err := m.plane.tokens.Mint(proof.Service, proof.Node, proof.TTL)
	if err != nil {
		return nil, join.Refusal(err.Error())
	}
	return &api.Joined{Service: proof.Service, Node: proof.Node, Token: next}, nil
}

// caller is who makes a call with a node's token, of which the node may make so many.
func (m *machines) caller(ctx context.Context, calls *rates) (token.Claims, error) {
	raw, err := token.FromContext(ctx)
	if err != nil {
		return token.Claims{}, status.Error(codes.Unauthenticated, err.Error())
	}
	c, err := m.plane.tokens.Verify(raw)
	if err != nil {
		return c, status.Error(codes.Unauthenticated, "the token is not valid")
	}
	if !calls.allow(c.Node, time.Now()) {
		return c, status.Errorf(codes.ResourceExhausted, "too many calls for this node: one each %s", calls.every)
	}
	return c, nil
}

// Bootstrap implements [api.Server].
func (m *machines) Bootstrap(ctx context.Context, r *api.BootstrapRequest) (*api.Bootstrap, error) {
	c, err := m.caller(ctx, m.calls)
	if err != nil {
		return nil, err
	}
	text, err := bootstrap.Render(bootstrap.Options{
		Service: c.Service, NodeID: c.Node, AppPort: r.AppPort, MeshPort: r.MeshPort, OutboundPort: r.OutboundPort, MetricsPort: r.MetricsPort,
		Address: r.Address, Region: r.Region, Zone: r.Zone, SubZone: r.SubZone, Version: r.Version, Tags: r.Tags, Meta: r.Meta,
		AdminSocket: r.AdminSocket, Managed: true, XDSAddresses: r.XDSAddresses, CAPEM: m.plane.svids.Roots(), TokenFile: r.TokenFile,
	})
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	return &api.Bootstrap{YAML: string(text), EnvoyVersion: bootstrap.EnvoyVersion}, nil
}

// Leave implements [api.Server].
func (m *machines) Leave(ctx context.Context, r *api.Place) (*api.Left, error) {
	c, at, err := m.place(ctx, r)
	if err != nil {
		return nil, err
	}
	p := m.plane
	ctx, cancel := context.WithTimeout(ctx, leaveTime)
	defer cancel()
	// Its entry goes when its callers know, and also when nobody calls it yet; that of
	// the last of a service only when it has ended.
	defer func() { p.registrations.Leave(c.Node, p.leaving.Stays(c.Node)) }()
	known := p.leaving.Leave(ctx, c.Node, p.mesh.Load().Service(c.Service).ConsulService, at)
	if !known {
		return &api.Left{}, nil
	}
	p.ClientLog.Info("a proxy leaves: its callers are told", "service", c.Service, "node", c.Node, "address", at)
	acked := ctx.Err() == nil && within(ctx, p.xds.Acked(ctx, p.calling(c.Service, c.Node)))
	if !acked {
		p.ClientLog.Warn("a proxy leaves, and not all of its callers have acknowledged it", "service", c.Service, "node", c.Node, "address", at)
	}
	return &api.Left{Known: true, Acknowledged: acked}, nil
}

// Return implements [api.Server].
func (m *machines) Return(ctx context.Context, r *api.Place) (*api.Returned, error) {
	c, at, err := m.place(ctx, r)
	if err != nil {
		return nil, err
	}
	if m.plane.leaving.Return(c.Node) {
		m.plane.ClientLog.Info("a proxy that left is back", "service", c.Service, "node", c.Node, "address", at)
	}
	return &api.Returned{}, nil
}

// Health implements [api.Server].
func (m *machines) Health(ctx context.Context, r *api.HealthReport) (*api.AppCheck, error) {
	c, err := m.caller(ctx, m.reports)
	if err != nil {
		return nil, err
	}
	switch register.Health(r.Health) {
	case "", register.Passing, register.Warning, register.Critical:
	default:
		return nil, status.Errorf(codes.InvalidArgument, "%q is no health: passing, warning or critical", r.Health)
	}
	return m.plane.sidecarReported(c.Service, c.Node, r), nil
}

// place is where the calling node says that it is. A node speaks for itself: its
// stream says the same, or, if that is at another control plane, it calls from there.
func (m *machines) place(ctx context.Context, r *api.Place) (c token.Claims, at netip.AddrPort, err error) {
	if c, err = m.caller(ctx, m.calls); err != nil {
		return c, at, err
	}
	ip, err := netip.ParseAddr(r.Address)
	if err != nil || r.MeshPort == 0 {
		return c, at, status.Errorf(codes.InvalidArgument, "%q and port %d are no place", r.Address, r.MeshPort)
	}
	at = netip.AddrPortFrom(ip.Unmap(), r.MeshPort)
	for _, seen := range m.plane.xds.Sightings(c.Node) {
		if seen.Service == c.Service && seen.Profile.MeshPort == r.MeshPort && (seen.Profile.Address == r.Address || seen.Profile.Address == "") {
			return c, at, nil
		}
	}
	if p, ok := peer.FromContext(ctx); !ok || listen.HostOf(p.Addr) != listen.HostOf(net.TCPAddrFromAddrPort(at)) {
		return c, at, status.Errorf(codes.PermissionDenied, "node %q is not at %s, as far as is known here", c.Node, at)
	}
	return c, at, nil
}

// calling selects the proxies that call a service, but for one node.
func (p *Plane) calling(service, but string) func(string, resource.Profile) bool {
	snapshot := p.loop.Status().Snapshot
	return func(node string, profile resource.Profile) bool {
		if node == but {
			return false
		}
		if snapshot == nil {
			return true
		}
		view := snapshot.View(profile)
		if view == nil {
			return true // a profile that has just come
		}
		scope := snapshot.Scope(view.Scope)
		return scope == nil || scope.Sets.Get(resource.Endpoint, service) != nil
	}
}

// backAfter is how long after a node's last word on leaving its next stream
// means that it is back: a plain Envoy in the place of one with a sidecar.
const backAfter = 15 * time.Second

// watchReturns ends the marks of nodes that are back without a word.
func (p *Plane) watchReturns(ctx context.Context) error {
	tick := time.NewTicker(backAfter / 3)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-tick.C:
			for node, since := range p.leaving.Marks() {
				if now.Sub(since) < backAfter {
					continue
				}
				for _, seen := range p.xds.Sightings(node) {
					if seen.Began.After(since) && p.leaving.Return(node) {
						p.ClientLog.Info("a proxy that left is back, by its stream", "service", seen.Service, "node", node)
					}
				}
			}
		}
	}
}
