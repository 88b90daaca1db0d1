package xds

import (
	"context"
	"sync"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	clusterservice "github.com/envoyproxy/go-control-plane/envoy/service/cluster/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	endpointservice "github.com/envoyproxy/go-control-plane/envoy/service/endpoint/v3"
	listenerservice "github.com/envoyproxy/go-control-plane/envoy/service/listener/v3"
	routeservice "github.com/envoyproxy/go-control-plane/envoy/service/route/v3"
	runtimeservice "github.com/envoyproxy/go-control-plane/envoy/service/runtime/v3"
	secretservice "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	xdsstream "github.com/envoyproxy/go-control-plane/pkg/server/stream/v3"
	xdsserver "github.com/envoyproxy/go-control-plane/pkg/server/v3"

	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/xds/wire"
)

// Server serves the newest snapshot to all connected proxies. It is safe for
// concurrent use.
type Server struct {
	// Safe for concurrent use, each by itself.
	options Options
	metrics *metrics
	names   *wire.NameSets
	budget  *budget
	tally   *tally
	pushed  func(*stream) // nil but in tests: looks at a stream after each push

	// halves guards which halves slots and scopes have. It is held for as long as
	// pointers take to be swapped, after mu where both are.
	halves sync.RWMutex

	// mu guards all that follows.
	mu sync.Mutex

	// What is served.
	snapshot    Snapshot // nil until the first Publish: nothing is served
	served      *servedSets
	quarantines *quarantines
	slots       map[resource.Profile]*slot
	scopes      map[string]*scopeSlot // of the slots, by key

	// Who is connected, and what is remembered of those that were.
	draining bool
	streams  map[*stream]struct{}
	nodes    map[string]*nodeStreams // by node.id
	contests contests
	present  map[string]*stream // by node.id: has told OnPresence of its proxy
	rates    *streamRates
	memory   *nackMemory
	barriers map[*barrier]struct{} // not passed yet
	last     publication           // what it changed
	envoys   int                   // ADS streams whose node is known
	sentAway map[string]sentAway   // by node.id: see Move
	released released
	disputed []content // that other replicas have in quarantine: see Agree
	moves    uint64

	health healthStreams // has a lock of its own

	statusSlots chan struct{} // as many as answers of CSDS are made at a time

	// What OnFleet and OnInbound are told.
	fleet     *resource.Fleet               // that OnFleet was last called with
	moved     map[resource.Profile]struct{} // came or left since
	inbound   map[resource.Inbound]int      // how many streams are of a proxy there
	turned    map[resource.Inbound]bool     // those that came or left since, and which
	reporting bool                          // they are about to be called, or were in this interval
}

// New returns a server that refuses streams until [Server.Publish] is called.
func New(o Options) *Server {
	o.Timeouts = o.Timeouts.withDefaults()
	o.Limits = o.Limits.withDefaults()
	tally, quarantines := newTally(o.Quorum), &quarantines{}
	s := &Server{
		options:     o,
		metrics:     newMetrics(o.Metrics),
		names:       wire.NewNameSets(),
		budget:      newBudget(),
		tally:       tally,
		served:      newServedSets(tally, quarantines),
		quarantines: quarantines,
		slots:       make(map[resource.Profile]*slot),
		scopes:      make(map[string]*scopeSlot),
		streams:     make(map[*stream]struct{}),
		nodes:       make(map[string]*nodeStreams),
		contests:    make(contests),
		present:     make(map[string]*stream),
		rates:       newStreamRates(o.Limits),
		memory:      newNackMemory(),
		barriers:    make(map[*barrier]struct{}),
		health:      healthStreams{rate: rate.NewLimiter(rate.Limit(o.Limits.StreamRate), o.Limits.StreamBurst), byNode: make(map[string]*healthStream)},
		sentAway:    make(map[string]sentAway),
		fleet:       resource.NewFleet(),
		moved:       make(map[resource.Profile]struct{}),
		inbound:     make(map[resource.Inbound]int),
		turned:      make(map[resource.Inbound]bool),
		statusSlots: make(chan struct{}, maxStatusCalls),
	}
	if o.Metrics != nil {
		o.Metrics.MustRegister(states{s})
	}
	return s
}

const (
	// maxMessage bounds a request. A delta client that reconnects names every
	// resource with its version: 6 MB for 50,000 of them.
	maxMessage = 8 << 20
	// maxHeaders bounds the headers of a call. A token has 4 KB at most.
	maxHeaders = 16 << 10
	// maxConcurrentStreams bounds the calls that a connection has at a time, and
	// with them the handlers that it may have running: those of streams that it
	// reset at once too. Clients with more streams open another connection.
	maxConcurrentStreams = 100
	// window is what a client may send ahead of its reader.
	window = 64 << 10
	// handshakeTime bounds the TLS handshake and what begins HTTP/2.
	handshakeTime = 20 * time.Second
	// connectionGrace is how long calls on a connection may go on that has reached
	// its age.
	connectionGrace = 15 * time.Second
)

// ServerOptions returns what the gRPC server needs to carry this one: the
// codec without which streams cannot send, limits, and the look at the headers
// of each call. Other services may be registered beside it: their callers too
// have to show a credential.
func (s *Server) ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ForceServerCodecV2(wire.NewCodec()),
		grpc.InTapHandle(s.tap),
		grpc.ChainStreamInterceptor(admitStream),
		grpc.ChainUnaryInterceptor(admitUnary),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxHeaderListSize(maxHeaders),
		grpc.MaxConcurrentStreams(maxConcurrentStreams),
		grpc.ConnectionTimeout(handshakeTime),
		// Windows that grow with what a client sends would let it leave up to
		// 16 MB on a stream that nobody reads.
		grpc.StaticStreamWindowSize(window),
		grpc.StaticConnWindowSize(window),
		// A connection with TLS keeps its buffer, of 32 KB unless told. What
		// clients send often, ACKs, takes a hundred bytes.
		grpc.ReadBufferSize(4 << 10),
		// grpc-go clients that ping more often than this are cut off.
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{
			MinTime:             10 * time.Second,
			PermitWithoutStream: true,
		}),
		// A peer that vanished without closing is noticed within 40 s.
		grpc.KeepaliveParams(keepalive.ServerParameters{
			Time:    30 * time.Second,
			Timeout: 10 * time.Second,
			// Streams of xDS do not end by themselves: what the grace is for are the
			// other calls on a connection.
			MaxConnectionAge:      s.options.Limits.ConnectionAge,
			MaxConnectionAgeGrace: connectionGrace,
		}),
	}
}

// Register adds ADS and the separate discovery services to a gRPC server that
// was made with [ServerOptions].
func (s *Server) Register(server *grpc.Server) {
	g := streamsOnly{server}
	h := xdsserver.NewServerAdvanced(handlers{s}, handlers{s}, handlers{s})
	discovery.RegisterAggregatedDiscoveryServiceServer(g, h)
	clusterservice.RegisterClusterDiscoveryServiceServer(g, h)
	endpointservice.RegisterEndpointDiscoveryServiceServer(g, h)
	secretservice.RegisterSecretDiscoveryServiceServer(g, h)
	listenerservice.RegisterListenerDiscoveryServiceServer(g, h)
	routeservice.RegisterRouteDiscoveryServiceServer(g, h)
	runtimeservice.RegisterRuntimeDiscoveryServiceServer(g, h)
	s.registerHealth(server)
	s.registerStatus(server)
}

// handlers are the three that go-control-plane's services call.
type handlers struct{ *Server }

// DeltaStreamHandler implements delta.Server of go-control-plane.
func (h handlers) DeltaStreamHandler(gs xdsstream.DeltaStream, typeURL string) error {
	return h.serve(wire.Delta, gs, typeURL)
}

// StreamHandler implements sotw.Server of go-control-plane.
func (h handlers) StreamHandler(gs xdsstream.Stream, typeURL string) error {
	return h.serve(wire.SotW, gs, typeURL)
}

// Fetch implements rest.Server of go-control-plane: polling is not supported.
func (handlers) Fetch(context.Context, *discovery.DiscoveryRequest) (*discovery.DiscoveryResponse, error) {
	return nil, errFetch
}

// Snapshot is one state of the whole fleet's configuration.
type Snapshot interface {
	// Scope returns the scope with the key, or nil.
	Scope(key string) *resource.Scope
	// View returns the view of a profile, or nil.
	View(p resource.Profile) *resource.View
	// Changed returns what differs from the snapshot that was published before.
	Changed() ([]*resource.Scope, []*resource.View)
}

// Publish makes the snapshot the one that is served. It wakes the streams
// whose views changed and returns without waiting for any. Every snapshot must
// be published, in order: each says only what differs from the one before it.
func (s *Server) Publish(next Snapshot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.snapshot = next
	scopes, views := next.Changed()
	var p publication
	for _, scope := range scopes {
		if sc := s.scopes[scope.Key]; sc != nil { // else no connected proxy is in it
			s.serveScopeLocked(&p, sc, scope)
		}
	}
	for _, v := range views {
		if sl := s.slots[v.Profile]; sl != nil { // else its last proxy has gone meanwhile
			s.serveOwnLocked(&p, sl, v)
		}
	}
	s.swapLocked(&p)
	s.last = p
	s.served.published()
	s.expireLocked(true)
}

// publication is what is about to be served: the new halves, and whose they are.
type publication struct {
	scopes map[*scopeSlot]*half
	slots  map[*slot]*half
	moved  map[*slot]*scopeSlot // to another scope
}

// concerns reports whether what the streams of a slot are to have has changed by it,
// once it was swapped in.
func (p *publication) concerns(sl *slot) bool {
	if _, ok := p.slots[sl]; ok {
		return true
	}
	_, ok := p.scopes[sl.scope]
	return ok
}

func (p *publication) putScope(sc *scopeSlot, h *half) {
	if p.scopes == nil {
		p.scopes = make(map[*scopeSlot]*half)
	}
	p.scopes[sc] = h
}

// half returns the half that a scope is to have.
func (p *publication) half(sc *scopeSlot) *half {
	if h, ok := p.scopes[sc]; ok {
		return h
	}
	return sc.half
}

// serveScopeLocked makes what all streams of a scope are to have. What is in
// quarantine depends on all that a resource needs: where there is such a thing,
// the halves of the scope's proxies are looked at again.
func (s *Server) serveScopeLocked(p *publication, sc *scopeSlot, scope *resource.Scope) {
	p.putScope(sc, s.served.half(sc.half, scope.Kind, nil, scope.Sets, nil))
	if len(s.quarantines.list) == 0 {
		return
	}
	for sl := range sc.slots {
		if sl.own != nil {
			s.serveOwnSetsLocked(p, sl, p.scopes[sc], sl.own.sets(), sl.own.missing)
		}
	}
}

// serveOwnLocked makes what the streams of one profile are to have for themselves.
func (s *Server) serveOwnLocked(p *publication, sl *slot, v *resource.View) {
	sc := sl.scope
	if sc == nil || sc.key != v.Scope {
		sc = s.scopes[v.Scope]
		if sc == nil {
			sc = &scopeSlot{key: v.Scope, kind: sl.profile.Kind, slots: make(map[*slot]struct{}), streams: make(map[*stream]struct{})}
			s.scopes[v.Scope] = sc
			s.serveScopeLocked(p, sc, s.snapshot.Scope(v.Scope))
		}
		if p.moved == nil {
			p.moved = make(map[*slot]*scopeSlot)
		}
		p.moved[sl] = sc
	}
	s.serveOwnSetsLocked(p, sl, p.half(sc), v.Own, v.Missing)
}

func (s *Server) serveOwnSetsLocked(p *publication, sl *slot, scope *half, sets resource.Sets, missing []string) {
	if p.slots == nil {
		p.slots = make(map[*slot]*half)
	}
	own := sl.own
	if made, ok := p.slots[sl]; ok {
		own = made
	}
	p.slots[sl] = s.served.half(own, sl.profile.Kind, scope, sets, missing)
}

// swapLocked puts the new halves in the place of the old ones, all at once, and wakes
// whom they are for.
func (s *Server) swapLocked(p *publication) {
	left := make(map[*scopeSlot]struct{})
	for sl, to := range p.moved {
		if sl.scope != nil {
			sl.scope.remove(sl)
			left[sl.scope] = struct{}{}
		}
		to.add(sl)
	}
	s.halves.Lock()
	for sl, sc := range p.moved {
		sl.scope = sc
	}
	for sc, h := range p.scopes {
		if sc.half == h {
			delete(p.scopes, sc)
		}
		sc.half = h
	}
	for sl, h := range p.slots {
		if sl.own == h && p.moved[sl] == nil {
			delete(p.slots, sl)
		}
		sl.own = h
	}
	s.halves.Unlock()
	for sc := range left { // not before all have moved: another may have come
		s.dropUnusedLocked(sc)
	}
	for sc := range p.scopes {
		sc.wake()
	}
	for sl := range p.slots {
		for st := range sl.streams {
			st.wake()
		}
	}
}

// dropUnusedLocked gives a scope up if no slot is in it any more.
func (s *Server) dropUnusedLocked(sc *scopeSlot) {
	if len(sc.slots) > 0 {
		return
	}
	if s.scopes[sc.key] == sc {
		delete(s.scopes, sc.key)
	}
	s.served.release(sc.half)
}

// Drain ends every stream and refuses new ones, so that a graceful stop of the
// gRPC server can end. Clients go to another replica, or come back.
func (s *Server) Drain() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.draining = true
	s.drainHealth()
	for st := range s.streams {
		st.end(errDraining)
	}
}

var (
	errDraining   = status.Error(codes.Unavailable, "the control plane is shutting down")
	errNotReady   = status.Error(codes.Unavailable, "the control plane has no complete state yet")
	errSuperseded = status.Error(codes.Aborted, "a newer stream of the same node.id has taken over")
	errExpired    = status.Error(codes.Unauthenticated, "the credential has expired")
	errSlow       = status.Error(codes.ResourceExhausted, "the client does not read its responses")
	errSilent     = status.Error(codes.DeadlineExceeded, "no request came")
)

// enter counts a stream in, or says why it may not begin.
func (s *Server) enter(st *stream) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.draining:
		s.metrics.refused.WithLabelValues("unavailable").Inc()
		return errDraining
	case s.snapshot == nil:
		s.metrics.refused.WithLabelValues("unavailable").Inc()
		return errNotReady
	case st.credential != nil && !s.rates.node(nodeHost{st.credential.Node, st.host}):
		return s.refuse("node_rate", codes.Unavailable, "node %q opens streams too fast", st.credential.Node)
	case len(s.streams) >= s.options.Limits.Streams:
		return s.refuse("streams", codes.ResourceExhausted, "the control plane has %d streams", len(s.streams))
	case !s.rates.all.Allow():
		return s.refuse("rate", codes.Unavailable, "too many streams begin at once: come again")
	}
	s.rates.cost.began()
	s.streams[st] = struct{}{}
	return nil
}

// identify puts a stream whose node is known into the slot of its profile, and
// among the streams of its node.id.
func (s *Server) identify(st *stream, p resource.Profile) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if st.credential == nil && !s.rates.node(nodeHost{st.node.ID, st.host}) {
		return s.refuse("node_rate", codes.Unavailable, "node %q opens streams too fast", st.node.ID)
	}
	s.memory.expire(func(node string) bool { return s.nodes[node] != nil })
	if err := s.joinNodeLocked(st, p); err != nil {
		return err
	}
	sl := s.slots[p]
	if sl == nil {
		sl = &slot{profile: p, streams: make(map[*stream]struct{}), halves: &s.halves}
		if v := s.snapshot.View(p); v != nil {
			var publication publication
			s.serveOwnLocked(&publication, sl, v)
			s.swapLocked(&publication)
		}
		s.slots[p] = sl
		s.reportFleetLocked(p)
	}
	sl.streams[st] = struct{}{}
	if sl.scope != nil {
		sl.scope.enter(st)
	}
	st.slot = sl
	if st.aggregated {
		s.envoys++
	}
	s.countInboundLocked(st, 1)
	for b := range s.barriers {
		if !b.closed {
			b.enterLocked(st)
		}
	}
	st.pastNacks, st.suspected = s.memory.of(st.node.ID)
	return nil
}

// leave takes a stream out. The profile goes with its last stream.
func (s *Server) leave(st *stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.streams, st)
	if st.slot == nil {
		return
	}
	if st.aggregated {
		s.envoys--
	}
	for b := range s.barriers {
		s.passLocked(b, st)
	}
	s.absentLocked(st)
	s.leaveNodeLocked(st)
	s.countInboundLocked(st, -1)
	s.memory.extend(st.node.ID)
	_ = s.budget.move(st.node.ID, st.counted, wire.Count{})
	sl := st.slot
	if sl.scope != nil {
		sl.scope.leave(st)
	}
	if delete(sl.streams, st); len(sl.streams) == 0 {
		delete(s.slots, sl.profile)
		s.noteEndLocked(st, time.Now())
		if sl.own != nil {
			s.served.release(sl.own)
			sl.scope.remove(sl)
			s.dropUnusedLocked(sl.scope)
			s.expireLocked(false)
		}
		s.reportFleetLocked(sl.profile)
	}
}
