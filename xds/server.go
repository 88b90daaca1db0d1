package xds

import (
	"context"
	"iter"
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

	"datapunk.dev/controlplane/translate"
)

// Server serves the newest snapshot to all connected proxies. It is safe for
// concurrent use.
type Server struct {
	options Options
	metrics *metrics
	names   *nameSets
	jury    *jury

	mu       sync.Mutex
	offers   *offers
	state    state // nil until the first Publish: nothing is served
	draining bool
	slots    map[translate.Profile]*slot
	streams  map[*stream]struct{}
	nodes    map[string]*resident // by node.id
	paces    *paces
	memory   *memory

	fleet     *translate.Fleet               // that OnFleet was last called with
	moved     map[translate.Profile]struct{} // came or left since
	reporting bool                           // OnFleet is about to be called, or was in this interval
}

// New returns a server that refuses streams until [Server.Publish] is called.
func New(o Options) *Server {
	o.Timeouts = o.Timeouts.withDefaults()
	o.Limits = o.Limits.withDefaults()
	j := newJury(o.Quorum)
	return &Server{
		options: o,
		metrics: newMetrics(o.Metrics),
		names:   newNameSets(),
		jury:    j,
		offers:  newOffers(j),
		slots:   make(map[translate.Profile]*slot),
		streams: make(map[*stream]struct{}),
		nodes:   make(map[string]*resident),
		paces:   newPaces(o.Limits),
		memory:  newMemory(),
		fleet:   translate.NewFleet(),
		moved:   make(map[translate.Profile]struct{}),
	}
}

const (
	// maxMessage bounds a request. A delta client that reconnects names every
	// resource with its version: 5 MB for 50,000 of them.
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
)

// ServerOptions returns what the gRPC server needs to carry this one: the
// codec without which streams cannot send, limits, and the look at the headers
// of each call. Other services may be registered beside it: their callers too
// have to show a credential.
func (s *Server) ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ForceServerCodecV2(newCodec()),
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
	return nil, errFetch
}

// Publish makes the snapshot the one that is served. It wakes the streams
// whose views changed and returns without waiting for any. Every snapshot must
// be published, in order: each says only what differs from the one before it.
func (s *Server) Publish(snapshot *translate.Snapshot) {
	s.publish(snapshot, snapshot.Changed)
}

// state is what the server needs of a snapshot.
type state interface {
	View(translate.Profile) *translate.View
	Views() iter.Seq[*translate.View]
}

func (s *Server) publish(next state, changed []*translate.View) {
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
func (s *Server) offer(sl *slot, sets [translate.NumTypes]*translate.Set, missing []string) {
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
		s.metrics.refused.WithLabelValues("unavailable").Inc()
		return errDraining
	case s.state == nil:
		s.metrics.refused.WithLabelValues("unavailable").Inc()
		return errNotReady
	case st.credential != nil && !s.paces.node(place{st.credential.Node, st.host}):
		return s.refuse("node_rate", codes.Unavailable, "node %q opens streams too fast", st.credential.Node)
	case len(s.streams) >= s.options.Limits.Streams:
		return s.refuse("streams", codes.ResourceExhausted, "the control plane has %d streams", len(s.streams))
	case !s.paces.all.Allow():
		return s.refuse("rate", codes.Unavailable, "too many streams begin at once: come again")
	}
	s.streams[st] = struct{}{}
	return nil
}

// identify puts a stream whose node is known into the slot of its profile, and
// among the streams of its node.id.
func (s *Server) identify(st *stream, p translate.Profile) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if st.credential == nil && !s.paces.node(place{st.node.id, st.host}) {
		return s.refuse("node_rate", codes.Unavailable, "node %q opens streams too fast", st.node.id)
	}
	s.memory.expire(func(node string) bool { return s.nodes[node] != nil })
	if err := s.house(st, p); err != nil {
		return err
	}
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
	st.recalled, st.doubted = s.memory.of(st.node.id)
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
	s.unhouse(st)
	s.memory.extend(st.node.id)
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
func (s *Server) reportFleet(p translate.Profile) {
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
	var came, left []translate.Profile
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
