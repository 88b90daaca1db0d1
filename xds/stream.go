package xds

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/netip"
	"runtime/debug"
	"strconv"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"datapunk.dev/controlplane/listen"
	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/xds/wire"
)

// stream is one xDS stream. The goroutine that runs [stream.run] takes in what
// comes and decides what is sent; one goroutine receives, and while there is
// something to send one sends, so that a client that does not read blocks neither.
//
// "The server may send additional responses at any time when the subscribed
// resources change", and "Envoy does not expect a DiscoveryResponse for every
// DiscoveryRequests it issues." So requests, changes of the view and of the
// lease, and time all lead to [stream.push], which compares what the client has
// to what it should have and sends the difference.
type stream struct {
	// Immutable from the start.
	server     *Server
	protocol   wire.Protocol
	aggregated bool          // ADS; else the stream is for only
	only       resource.Type // the one type of a separate discovery service
	transport  grpc.ServerStream
	credential *Credential   // nil in plaintext mode
	host       string        // where the client is, for the limits
	from       netip.Addr    // likewise, to the bit; invalid: a Unix socket
	done       chan struct{} // closed when the stream has ended

	// What other goroutines tell it, and read.
	wakeup      chan struct{} // of one place: something has changed
	ended       chan error    // of one place: why the server ends the stream
	sent        chan error    // one a response, when the transport has taken it
	secretsDue  atomic.Bool   // the lease has something new
	barriersDue atomic.Bool   // a barrier waits for it, or does no more
	status      streamStatus

	// Of the first request on, and immutable then; others see them under Server.mu.
	node     *wire.Node
	slot     *slot
	siblings *nodeStreams // guarded by Server.mu
	leaving  bool         // likewise: it was told to end

	// The goroutine of run alone: what the client has and is to have.
	log          *slog.Logger
	types        [resource.NumTypes]typeState
	order        order
	secrets      secrets
	nonces       uint64
	counted      wire.Count                 // names of all types, as the budget has it
	pastNacks    map[resource.Ref]*pastNack // of earlier streams, until each is looked at
	hasPastNacks bool                       // the memory may have some of this node
	suspected    bool                       // it rejected something not long ago: its version_info may not be true
	barriers     []progress                 // that wait for it
	unknown      bool                       // a request of an unknown type was logged
	present      bool                       // OnPresence was told of the proxy

	// Likewise: what is on its way.
	unsent []*wire.Response // of the last push, those that the transport has not taken
	pushed bool             // they are to be given to it
	sendBy time.Time        // when it must have taken the next
	pushBy time.Time        // when to push again though nothing has happened
}

func (s *Server) serve(p wire.Protocol, gs grpc.ServerStream, typeURL string) (err error) {
	st := &stream{
		server: s, transport: gs, protocol: p, aggregated: typeURL == "",
		wakeup: make(chan struct{}, 1),
		ended:  make(chan error, 1),
		sent:   make(chan error, 1),
		done:   make(chan struct{}),
		log:    s.options.Logger.With("protocol", p.String()),
	}
	defer close(st.done)
	defer st.contain(&err)
	if !st.aggregated {
		var ok bool
		if st.only, ok = resource.TypeOf(typeURL); !ok {
			return status.Errorf(codes.Unimplemented, "resources of type %s are not served", typeURL)
		}
	}
	st.secrets.stream = st
	for t := range st.types {
		st.types[t] = typeState{stream: st, typ: resource.Type(t)}
	}
	if st.credential, err = s.authenticate(gs.Context()); err != nil {
		return err
	}
	if from, ok := peer.FromContext(gs.Context()); ok && from.Addr != nil {
		st.host = listen.HostOf(from.Addr)
		if at, err := netip.ParseAddrPort(from.Addr.String()); err == nil {
			st.from = at.Addr().Unmap()
		}
	}
	if err := s.enter(st); err != nil {
		return err
	}
	s.metrics.opened.WithLabelValues(p.String()).Inc()
	open := s.metrics.streams.WithLabelValues(p.String())
	open.Inc()
	defer open.Dec()
	defer s.leave(st)
	defer st.secrets.release()
	st.status.opened(peerAddress(gs.Context()))

	requests := make(chan *wire.Request)
	failed := make(chan error, 1)
	go st.receive(requests, failed)
	return st.run(gs.Context(), requests, failed)
}

// contain turns a panic into the end of this one stream.
func (s *stream) contain(err *error) {
	if r := recover(); r != nil {
		*err = s.server.panicked(s.log, r)
	}
}

// panicked notes a panic in a stream, and returns what its client is told.
func (s *Server) panicked(log *slog.Logger, r any) error {
	s.metrics.panics.Inc()
	log.Error("panic in a stream", "panic", r, "stack", string(debug.Stack()))
	return status.Error(codes.Internal, "internal error")
}

func (s *stream) receive(requests chan<- *wire.Request, failed chan<- error) {
	for {
		r := wire.NewRequest(s.protocol, s.server.names)
		err := func() (err error) {
			defer s.contain(&err)
			return s.transport.RecvMsg(r)
		}()
		if err != nil {
			failed <- err
			return
		}
		select {
		case requests <- r:
		case <-s.done:
			return
		}
	}
}

// transmit sends the frames of one push. It lasts no longer: most of the time
// there is nothing to send, and a goroutine that waits is memory.
func (s *stream) transmit(frames []*wire.Response) {
	for _, f := range frames {
		err := func() (err error) {
			defer s.contain(&err)
			return s.transport.SendMsg(f)
		}()
		select {
		case s.sent <- err:
		case <-s.done:
			return
		}
	}
}

// wake has the stream look for something to send. It never blocks.
func (s *stream) wake() {
	select {
	case s.wakeup <- struct{}{}:
	default:
	}
}

// end ends the stream with an error. It never blocks.
func (s *stream) end(err error) {
	select {
	case s.ended <- err:
	default:
	}
}

func (s *stream) run(ctx context.Context, requests <-chan *wire.Request, failed <-chan error) error {
	identifyBy := time.Now().Add(s.server.options.Timeouts.Identify)
	timer := time.NewTimer(time.Until(identifyBy))
	defer timer.Stop()
	armed := identifyBy
	for {
		if s.pushed {
			s.pushed = false
			s.awaitTransport()
			go s.transmit(s.unsent)
		}
		next := s.sendBy
		if len(s.unsent) == 0 { // else push has to wait for the transport
			next = s.pushBy
		}
		if s.node == nil {
			next = earliest(next, identifyBy)
		}
		if s.credential != nil {
			next = earliest(next, s.credential.Expires)
		}
		if !next.Equal(armed) {
			armed = next
			if next.IsZero() {
				timer.Stop()
			} else {
				timer.Reset(time.Until(next))
			}
		}
		select {
		case r := <-requests:
			if err := s.handle(r); err != nil {
				s.log.Warn("stream ended", "err", err)
				return err
			}
			s.push()
		case <-s.wakeup:
			s.push()
		case err := <-s.sent:
			if err != nil {
				return err
			}
			s.unsent[0] = nil // the array stays, a response should not
			s.unsent = s.unsent[1:]
			s.awaitTransport()
			if len(s.unsent) == 0 {
				s.push()
			}
		case now := <-timer.C:
			armed = time.Time{}
			if err := s.overdue(now, identifyBy); err != nil {
				s.log.Warn("stream ended", "err", err)
				return err
			}
			s.push()
		case err := <-failed:
			if errors.Is(err, io.EOF) || ctx.Err() != nil {
				return nil // the client has ended it
			}
			return err
		case err := <-s.ended:
			if !errors.Is(err, errContested) { // which was said once, and comes every second
				s.log.Info("stream ended", "err", err)
			}
			return err
		}
	}
}

// overdue says why the stream must end at this time, if it must.
func (s *stream) overdue(now, identifyBy time.Time) error {
	past := func(t time.Time) bool { return !t.IsZero() && !now.Before(t) }
	switch {
	case s.credential != nil && past(s.credential.Expires):
		return errExpired
	case s.node == nil && past(identifyBy):
		return errSilent
	case past(s.sendBy):
		s.server.metrics.slow.Inc()
		return errSlow
	}
	return nil
}

// handle takes in one request; what it calls for is sent by push.
func (s *stream) handle(r *wire.Request) error {
	if errors.Is(r.Malformed, wire.ErrTooMuch) {
		return s.server.refuse("limit", codes.ResourceExhausted, "the request is %v", r.Malformed)
	}
	if r.Malformed != nil {
		return s.server.refuse("malformed", codes.InvalidArgument, "the request can not be read: %v", r.Malformed)
	}
	if r.Node != nil {
		if err := s.admitNode(r.Node); err != nil {
			s.server.metrics.refused.WithLabelValues("identity").Inc()
			return err
		}
	}
	if s.node == nil {
		if err := s.begin(r.Node); err != nil {
			return err
		}
	}
	typ, err := s.typeOf(r)
	if err != nil {
		return err
	}
	if typ == resource.NumTypes {
		return nil
	}
	ts := &s.types[typ]
	if s.protocol == wire.Delta {
		ts.handleDelta(r)
	} else {
		ts.handleSotw(r)
	}
	return s.count()
}

// begin learns who the client is, from the first request.
func (s *stream) begin(n *wire.Node) error {
	if n == nil {
		return status.Error(codes.InvalidArgument, "the first request of a stream must carry the node")
	}
	p := n.Profile()
	s.node = n
	s.log = s.log.With("node", n.ID, "service", n.Cluster)
	if err := s.server.identify(s, p); err != nil {
		return err
	}
	s.hasPastNacks = len(s.pastNacks) > 0
	s.status.identified(n, s.slot, s.pastNacks)
	s.log.Info("proxy connected", "agent", n.Agent, "version", n.Version)
	return nil
}

// typeOf returns the type of a request, or NumTypes for one that is not
// served: on ADS an unknown type is no reason to end the others.
func (s *stream) typeOf(r *wire.Request) (resource.Type, error) {
	if !s.aggregated {
		if r.TypeURL != "" && r.TypeURL != s.only.URL() {
			return 0, status.Errorf(codes.InvalidArgument, "a request for %s on the service of %s", r.TypeURL, s.only.URL())
		}
		return s.only, nil
	}
	if r.TypeURL == "" {
		return 0, status.Error(codes.InvalidArgument, "a request without a type on an aggregated stream")
	}
	t, ok := resource.TypeOf(r.TypeURL)
	if !ok {
		if !s.unknown {
			s.unknown = true
			s.log.Warn("request of a type that is not served", "type", r.TypeURL)
		}
		return resource.NumTypes, nil
	}
	return t, nil
}

// send has a response sent after those before it.
func (s *stream) send(f *wire.Response) {
	s.unsent = append(s.unsent, f)
	s.pushed = true
}

// slowest is what a client must read at least, in bytes a second.
const slowest = 10_000

// awaitTransport sets the time until which the transport must have taken the
// first of the frames that it has not.
func (s *stream) awaitTransport() {
	s.sendBy = time.Time{}
	if len(s.unsent) > 0 {
		size := time.Duration(s.unsent[0].Size())
		s.sendBy = time.Now().Add(s.server.options.Timeouts.Send + size*time.Second/slowest)
	}
}

// nonce returns a nonce that the stream has not used. "The nonce is valid only
// in the context of an individual xDS stream; it does not survive stream
// restarts."
func (s *stream) nonce() string {
	s.nonces++
	return strconv.FormatUint(s.nonces, 10)
}

// pushAgainAt has the stream push at that time.
func (s *stream) pushAgainAt(t time.Time) { s.pushBy = earliest(s.pushBy, t) }

// earliest returns the earlier of two times, of which zero is never.
func earliest(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

func peerAddress(ctx context.Context) string {
	if p, ok := peer.FromContext(ctx); ok && p.Addr != nil {
		return p.Addr.String()
	}
	return ""
}
