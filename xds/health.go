package xds

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	healthservice "github.com/envoyproxy/go-control-plane/envoy/service/health/v3"

	"datapunk.dev/controlplane/listen"
	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/xds/wire"
)

// HDS: an Envoy is told how to check its own application, and says what the checks
// came to, every few seconds, whether that has changed or not. Its stream may be at
// another control plane than its ADS stream: Envoy chooses for each by itself.
//
// An Envoy whose stream is refused comes back twice a second, with a node of 61 KB
// each time. So one for which there is nothing to check is kept, and told nothing.

// Checks are how the applications of proxies are checked, and who hears of it.
type Checks struct {
	// Specifier is the HealthCheckSpecifier of a proxy: exactly one endpoint that its
	// Envoy is to check. Nil: it checks nothing.
	Specifier func(resource.Profile) proto.Message
	// Reported is told of each report, in the order of a node's. It must not wait.
	Reported func(HealthReport)
}

// HealthReport is what an Envoy says of its application.
type HealthReport struct {
	Node, Service string
	Status        wire.HealthStatus
	HTTPStatus    int       // 0: none, or not told
	Began         time.Time // of the stream
	Told          time.Time // what to check, on this stream
}

const (
	// reportRate is how many reports of one stream are read a second, after
	// reportBurst at once: Envoy sends one. Those over it wait in the network.
	reportRate, reportBurst = 2, 4
	// nothingToReport is how often an Envoy reports that checks nothing any more.
	nothingToReport = time.Hour
)

// healthStream is one HDS stream.
type healthStream struct {
	node   string
	wakeup chan struct{} // of one place: what is to be checked may have changed
	ended  chan error    // of one place: why the server ends the stream
}

// healthStreams are those that are open, of each node the newest.
type healthStreams struct {
	mu       sync.Mutex
	rate     *rate.Limiter // of those that begin: who is over it waits, and is not refused
	open     int
	draining bool
	byNode   map[string]*healthStream
}

// ChecksChanged has every HDS stream ask what is to be checked.
func (s *Server) ChecksChanged() {
	s.health.mu.Lock()
	defer s.health.mu.Unlock()
	for _, st := range s.health.byNode {
		select {
		case st.wakeup <- struct{}{}:
		default:
		}
	}
}

// registerHealth adds HDS. Polling has no method: nothing of its body is read.
func (s *Server) registerHealth(to grpc.ServiceRegistrar) {
	to.RegisterService(&grpc.ServiceDesc{
		ServiceName: "envoy.service.health.v3.HealthDiscoveryService", HandlerType: (*any)(nil),
		Streams: []grpc.StreamDesc{{
			StreamName: "StreamHealthCheck", ServerStreams: true, ClientStreams: true,
			Handler: func(_ any, gs grpc.ServerStream) error { return s.serveHealth(gs) },
		}},
	}, s)
}

// enterHealth counts a stream in, or says why it may not begin.
func (s *Server) enterHealth(c *Credential, host string) error {
	s.mu.Lock()
	draining, fast := s.draining, c != nil && !s.rates.node(nodeHost{"hds " + c.Node, host})
	s.mu.Unlock()
	s.health.mu.Lock()
	defer s.health.mu.Unlock()
	switch {
	case draining:
		return errDraining
	case fast:
		return s.refuse("node_rate", codes.Unavailable, "node %q opens streams too fast", c.Node)
	case s.health.open >= s.options.Limits.Streams:
		return s.refuse("streams", codes.ResourceExhausted, "the control plane has %d HDS streams", s.health.open)
	}
	s.health.open++
	return nil
}

func (s *Server) leaveHealth(st *healthStream) {
	s.health.mu.Lock()
	defer s.health.mu.Unlock()
	s.health.open--
	if s.health.byNode[st.node] == st {
		delete(s.health.byNode, st.node)
	}
}

// joinHealth makes the stream that of its node: the newest wins, as with ADS.
func (s *Server) joinHealth(st *healthStream, node string) {
	s.health.mu.Lock()
	defer s.health.mu.Unlock()
	if old := s.health.byNode[node]; old != nil {
		s.metrics.superseded.Inc()
		old.end(errSuperseded)
	}
	st.node = node
	s.health.byNode[node] = st
	if s.health.draining {
		st.end(errDraining)
	}
}

// drainHealth ends every HDS stream.
func (s *Server) drainHealth() {
	s.health.mu.Lock()
	defer s.health.mu.Unlock()
	s.health.draining = true
	for _, st := range s.health.byNode {
		st.end(errDraining)
	}
}

func (st *healthStream) end(err error) {
	select {
	case st.ended <- err:
	default:
	}
}

func (s *Server) serveHealth(gs grpc.ServerStream) error {
	ctx := gs.Context()
	credential, err := s.authenticate(ctx)
	if err != nil {
		return err
	}
	host := ""
	if from, ok := peer.FromContext(ctx); ok && from.Addr != nil {
		host = listen.HostOf(from.Addr)
	}
	if err := s.enterHealth(credential, host); err != nil {
		return err
	}
	st := &healthStream{wakeup: make(chan struct{}, 1), ended: make(chan error, 1)}
	defer s.leaveHealth(st)
	if err := s.health.rate.Wait(ctx); err != nil {
		return status.FromContextError(err).Err()
	}
	open := s.metrics.streams.WithLabelValues("hds")
	open.Inc()
	defer open.Dec()

	done := make(chan struct{})
	defer close(done)
	messages, failed := make(chan *wire.HealthMessage), make(chan error, 1)
	go func() {
		limit := rate.NewLimiter(reportRate, reportBurst)
		for {
			m := new(wire.HealthMessage)
			err := func() (err error) {
				defer func() {
					if r := recover(); r != nil {
						err = s.panicked(s.options.Logger, r)
					}
				}()
				return gs.RecvMsg(m)
			}()
			if err == nil {
				err = m.Malformed
			}
			if err == nil {
				err = limit.Wait(ctx)
			}
			if err != nil {
				failed <- err
				return
			}
			select {
			case messages <- m:
			case <-done:
				return
			}
		}
	}()

	expired := make(<-chan time.Time)
	if credential != nil && !credential.Expires.IsZero() {
		timer := time.NewTimer(time.Until(credential.Expires))
		defer timer.Stop()
		expired = timer.C
	}
	identify := time.NewTimer(s.options.Timeouts.Identify)
	defer identify.Stop()
	return s.runHealth(gs, st, credential, messages, failed, expired, identify.C)
}

func (s *Server) runHealth(gs grpc.ServerStream, st *healthStream, credential *Credential,
	messages <-chan *wire.HealthMessage, failed <-chan error, expired, identify <-chan time.Time,
) error {
	began := time.Now()
	var told time.Time
	var node *wire.Node
	var sent proto.Message
	tell := func() error {
		// Whoever has proved nothing is registered nowhere, and not checked.
		if credential == nil || node == nil || s.options.Checks.Specifier == nil {
			return nil
		}
		next := s.options.Checks.Specifier(node.Profile())
		if proto.Equal(next, sent) {
			return nil
		}
		sent, told = next, time.Now()
		if next == nil {
			// It checks nothing, and says so no more often than this.
			return gs.SendMsg(&healthservice.HealthCheckSpecifier{Interval: durationpb.New(nothingToReport)})
		}
		return gs.SendMsg(next)
	}
	for {
		select {
		case m := <-messages:
			switch {
			case node == nil && m.Node == nil:
				return status.Error(codes.InvalidArgument, "the first message has no node")
			case m.Node != nil:
				if err := (&stream{credential: credential, node: node}).admitNode(m.Node); err != nil {
					return err
				}
				if node == nil {
					s.joinHealth(st, m.Node.ID)
				}
				node, identify = m.Node, nil
				if err := tell(); err != nil {
					return err
				}
			}
			if m.Reported && sent != nil {
				s.options.Checks.Reported(HealthReport{Node: node.ID, Service: node.Cluster, Status: m.Status, HTTPStatus: m.HTTPStatus, Began: began, Told: told})
			}
		case <-st.wakeup:
			if err := tell(); err != nil {
				return err
			}
		case err := <-st.ended:
			return err
		case <-expired:
			return errExpired
		case <-identify:
			return errSilent
		case err := <-failed:
			switch {
			case errors.Is(err, io.EOF), errors.Is(err, context.Canceled):
				return nil
			case errors.Is(err, wire.ErrTooMuch):
				return s.refuse("limit", codes.ResourceExhausted, "%v", err)
			}
			if _, ok := status.FromError(err); ok {
				return err
			}
			return s.refuse("malformed", codes.InvalidArgument, "%v", err)
		}
	}
}
