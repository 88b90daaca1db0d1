package xds

import (
	"context"
	"iter"
	"math"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	clusterservice "github.com/envoyproxy/go-control-plane/envoy/service/cluster/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	endpointservice "github.com/envoyproxy/go-control-plane/envoy/service/endpoint/v3"
	listenerservice "github.com/envoyproxy/go-control-plane/envoy/service/listener/v3"
	routeservice "github.com/envoyproxy/go-control-plane/envoy/service/route/v3"
	secretservice "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	xdsstream "github.com/envoyproxy/go-control-plane/pkg/server/stream/v3"
	xdsserver "github.com/envoyproxy/go-control-plane/pkg/server/v3"

	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/translate"
)

// Server serves the newest snapshot to all connected proxies. It is safe for
// concurrent use.
type Server struct {
	options Options
	metrics *metrics
	names   *nameSets
	budget  *budget
	jury    *jury

	mu       sync.Mutex
	offers   *offers
	state    state // nil until the first Publish: nothing is served
	draining bool
	slots    map[resource.Profile]*slot
	streams  map[*stream]struct{}
	nodes    map[string]*stream // by node.id, its newest ADS stream
	memory   *memory

	fleet     *resource.Fleet               // that OnFleet was last called with
	moved     map[resource.Profile]struct{} // came or left since
	reporting bool                          // OnFleet is about to be called, or was in this interval
}

// New returns a server that refuses streams until [Server.Publish] is called.
func New(o Options) *Server {
	o.Timeouts = o.Timeouts.withDefaults()
	j := newJury(o.Quorum)
	return &Server{
		options: o,
		metrics: newMetrics(o.Metrics),
		names:   newNameSets(),
		budget:  newBudget(),
		jury:    j,
		offers:  newOffers(j),
		slots:   make(map[resource.Profile]*slot),
		streams: make(map[*stream]struct{}),
		nodes:   make(map[string]*stream),
		memory:  newMemory(),
		fleet:   resource.NewFleet(),
		moved:   make(map[resource.Profile]struct{}),
	}
}

// ServerOptions returns what the gRPC server needs to carry this one: the
// codec without which streams cannot send, and limits. Other services may be
// registered beside it.
func ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ForceServerCodecV2(newCodec()),
		// A delta client that reconnects names every resource with its
		// version: 5 MB for 50,000 of them, where the default limit is 4 MB.
		grpc.MaxRecvMsgSize(32 << 20),
		grpc.MaxConcurrentStreams(math.MaxUint32),
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
		}),
	}
}

// Register adds ADS and the separate discovery services to a gRPC server that
// was made with [ServerOptions].
func (s *Server) Register(g *grpc.Server) {
	h := xdsserver.NewServerAdvanced(handlers{s}, handlers{s}, handlers{s})
	discovery.RegisterAggregatedDiscoveryServiceServer(g, h)
	clusterservice.RegisterClusterDiscoveryServiceServer(g, h)
	endpointservice.RegisterEndpointDiscoveryServiceServer(g, h)
	secretservice.RegisterSecretDiscoveryServiceServer(g, h)
	listenerservice.RegisterListenerDiscoveryServiceServer(g, h)
	routeservice.RegisterRouteDiscoveryServiceServer(g, h)
}

// handlers are the three that go-control-plane's services call.
type handlers struct{ *Server }

// DeltaStreamHandler implements delta.Server of go-control-plane.
func (h handlers) DeltaStreamHandler(gs xdsstream.DeltaStream, typeURL string) error {
	return h.serve(delta, gs, typeURL)
}

// StreamHandler implements sotw.Server of go-control-plane.
func (h handlers) StreamHandler(gs xdsstream.Stream, typeURL string) error {
	return h.serve(sotw, gs, typeURL)
}

// Fetch implements rest.Server of go-control-plane: polling is not supported.
func (handlers) Fetch(context.Context, *discovery.DiscoveryRequest) (*discovery.DiscoveryResponse, error) {
	return nil, status.Error(codes.Unimplemented, "polling is not supported, open a stream")
}

// Publish makes the snapshot the one that is served. It wakes the streams
// whose views changed and returns without waiting for any. Every snapshot must
// be published, in order: each says only what differs from the one before it.
func (s *Server) Publish(snapshot *translate.Snapshot) {
	s.publish(snapshot, snapshot.Changed)
}

// state is what the server needs of a snapshot.
type state interface {
	View(resource.Profile) *resource.View
	Views() iter.Seq[*resource.View]
}

func (s *Server) publish(next state, changed []*resource.View) {
	s.mu.Lock()
	defer s.mu.Unlock()
	first := s.state == nil
	s.state = next
	if first {
		changed = slices.Collect(next.Views())
	}
	for _, v := range changed {
		if sl := s.slots[v.Profile]; sl != nil { // else its last proxy has gone meanwhile
			s.offer(sl, v.Sets, v.Missing)
		}
	}
	s.offers.published()
	s.lift(true)
}

// offer makes the sets what the slot's streams are to have.
func (s *Server) offer(sl *slot, sets [resource.NumTypes]*resource.Set, missing []string) {
	old := sl.view.Load()
	v := s.offers.view(old, sl.profile.Kind, sets, missing)
	sl.view.Store(v)
	if old != nil && old.offers == v.offers && slices.Equal(old.missing, v.missing) {
		return
	}
	for st := range sl.streams {
		st.wake()
	}
}

// judged is called when a content has gone into quarantine or was proven good.
func (s *Server) judged() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sl := range s.slots {
		if v := sl.view.Load(); v != nil {
			s.offer(sl, v.sets(), v.missing)
		}
	}
	s.lift(false)
}

// lift ends the quarantines that have lost their cause. The caller holds mu.
func (s *Server) lift(publication bool) {
	for _, q := range s.jury.lift(publication) {
		s.options.Logger.Info("quarantine ended", "type", typeName(q.content.typ), "name", q.content.name, "version", q.content.version)
	}
	s.metrics.quarantined.Set(float64(s.jury.count()))
}

// Drain ends every stream and refuses new ones, so that a graceful stop of the
// gRPC server can end. Clients go to another replica, or come back.
func (s *Server) Drain() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.draining = true
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
		return errDraining
	case s.state == nil:
		return errNotReady
	}
	s.streams[st] = struct{}{}
	return nil
}

// identify puts a stream whose node is known into the slot of its profile.
// The newest ADS stream of a node.id wins: a proxy that lost its connection is
// back before the server notices that the old one is dead.
func (s *Server) identify(st *stream, p resource.Profile) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sl := s.slots[p]
	if sl == nil {
		sl = &slot{profile: p, streams: make(map[*stream]struct{})}
		if v := s.state.View(p); v != nil {
			s.offer(sl, v.Sets, v.Missing)
		}
		s.slots[p] = sl
		s.reportFleet(p)
	}
	sl.streams[st] = struct{}{}
	st.slot = sl
	s.memory.expire(func(node string) bool { return s.nodes[node] != nil })
	st.recalled, st.doubted = s.memory.of(st.node.id)
	if st.aggregated {
		if old := s.nodes[st.node.id]; old != nil && !st.joins(old, p) {
			s.metrics.superseded.Inc()
			old.end(errSuperseded)
		}
		s.nodes[st.node.id] = st
	}
}

// joins reports whether a stream may stand beside an older one of its node.id:
// gRPC's own client opens one for each service that a process calls. One from
// elsewhere is a rival all the same.
func (s *stream) joins(old *stream, p resource.Profile) bool {
	return p.Kind == resource.Proxyless && old.slot != nil && old.slot.profile == p && s.status.host() == old.status.host()
}

// leave takes a stream out. The profile goes with its last stream.
func (s *Server) leave(st *stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.streams, st)
	if st.slot == nil {
		return
	}
	if s.nodes[st.node.id] == st {
		delete(s.nodes, st.node.id)
	}
	s.memory.extend(st.node.id)
	_ = s.budget.move(st.node.id, st.counted, nameCount{})
	delete(st.slot.streams, st)
	if len(st.slot.streams) == 0 {
		delete(s.slots, st.slot.profile)
		if v := st.slot.view.Load(); v != nil {
			s.offers.release(v)
			s.lift(false)
		}
		s.reportFleet(st.slot.profile)
	}
}

// fleetInterval is the least time between two reports of the fleet: each makes
// a snapshot, and after a restart ten thousand proxies come at once.
const fleetInterval = 10 * time.Millisecond

// reportFleet has OnFleet called, since a profile came or left: at once, or with
// all changes of the interval that is running. The caller holds mu.
func (s *Server) reportFleet(p resource.Profile) {
	if s.options.OnFleet == nil {
		return
	}
	s.moved[p] = struct{}{}
	if !s.reporting {
		s.reporting = true
		go s.report()
	}
}

func (s *Server) report() {
	s.mu.Lock()
	if len(s.moved) == 0 {
		s.reporting = false
		s.mu.Unlock()
		return
	}
	var came, left []resource.Profile
	for p := range s.moved {
		if s.slots[p] != nil {
			came = append(came, p)
		} else {
			left = append(left, p)
		}
	}
	clear(s.moved)
	s.fleet = s.fleet.Update(came, left)
	fleet := s.fleet
	s.mu.Unlock()
	s.options.OnFleet(fleet)
	time.AfterFunc(fleetInterval, s.report)
}
