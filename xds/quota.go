package xds

import (
	"net"
	"slices"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"datapunk.dev/controlplane/resource"
)

// Limits bound what all clients together may cost; a zero field takes its
// default.
type Limits struct {
	// Streams is how many there may be at once: 40,000 by default.
	Streams int
	// StreamRate is how many may begin a second, after StreamBurst at once: 1,000
	// and 5,000 by default. A fleet that comes back after a restart is let in
	// within seconds, and those who wait come again.
	StreamRate, StreamBurst int
}

func (l Limits) withDefaults() Limits {
	for _, f := range []struct {
		field *int
		value int
	}{{&l.Streams, 40_000}, {&l.StreamRate, 1000}, {&l.StreamBurst, 5000}} {
		if *f.field <= 0 {
			*f.field = f.value
		}
	}
	return l
}

// What one node.ID may have. An Envoy has one stream, or one for each of the
// separate services; a process with gRPC's own client has one for each service
// that it calls.
const (
	// nodeStreams is how many streams it may have at once, and begin at once;
	// nodeStreamRate how many more may begin a second.
	nodeStreams    = 64
	nodeStreamRate = 2
	// nodeProfiles is how many profiles its streams may show at once. Each is
	// configuration that is made and kept: an Envoy has one, what fetches
	// certificates beside it another.
	nodeProfiles = 4
)

// resident is what the server has of a node.ID while it has streams. All of
// them are of one service and come from one host.
type resident struct {
	service, host string
	streams       []*stream
}

// refuse counts a stream that may not begin, or not go on, for want of a limit.
func (s *Server) refuse(reason string, code codes.Code, format string, args ...any) error {
	s.metrics.refused.WithLabelValues(reason).Inc()
	return status.Errorf(code, format, args...)
}

// house puts a stream among those of its node.ID, whose profile is to be p.
//
// The newest wins: "a stolen token shows". A stream from another host, or of
// another service, ends all those before it, whatever they are for. On one host
// the newest ADS stream ends the one before it, since a proxy that lost its
// connection is back before the server notices that the old one is dead; the
// separate services stand beside it. The caller holds mu.
func (s *Server) house(st *stream, p resource.Profile) error {
	r := s.nodes[st.node.ID]
	if r != nil && (r.host != st.host || r.service != st.node.Cluster) {
		for _, old := range r.streams {
			s.supersede(old, st)
		}
		r = nil
	}
	if r == nil {
		r = &resident{service: st.node.Cluster, host: st.host}
		s.nodes[st.node.ID] = r
	}
	if st.aggregated {
		for _, old := range slices.Clone(r.streams) {
			if old.aggregated && !st.joins(old, p) {
				s.supersede(old, st)
				r.remove(old)
			}
		}
	}
	if len(r.streams) >= nodeStreams {
		return s.refuse("node_streams", codes.ResourceExhausted, "node %q has %d streams", st.node.ID, nodeStreams)
	}
	profiles := []resource.Profile{p}
	for _, other := range r.streams {
		if !slices.Contains(profiles, other.slot.profile) {
			profiles = append(profiles, other.slot.profile)
		}
	}
	if len(profiles) > nodeProfiles {
		return s.refuse("node_profiles", codes.ResourceExhausted, "node %q shows more than %d profiles at once", st.node.ID, nodeProfiles)
	}
	r.streams = append(r.streams, st)
	st.resident = r
	return nil
}

// supersede ends a stream for the sake of a newer one of the same node.ID.
func (s *Server) supersede(old, by *stream) {
	s.metrics.superseded.Inc()
	if old.host != by.host {
		s.options.Logger.Warn("a node.ID came from another host: its older stream ends", "node", by.node.ID, "service", by.node.Cluster,
			"peer", by.host, "older", old.host)
	}
	old.end(errSuperseded)
}

// joins reports whether an ADS stream may stand beside an older one of its
// node.ID: some kinds of clients have several of one process.
func (s *stream) joins(old *stream, p resource.Profile) bool {
	return p.Kind.StreamsOfOne() && old.slot.profile == p
}

// unhouse takes a stream out of those of its node.ID. The caller holds mu.
func (s *Server) unhouse(st *stream) {
	r := st.resident
	r.remove(st)
	if len(r.streams) == 0 && s.nodes[st.node.ID] == r {
		delete(s.nodes, st.node.ID)
	}
}

func (r *resident) remove(st *stream) {
	i := slices.Index(r.streams, st)
	if i < 0 {
		return
	}
	r.streams = slices.Delete(r.streams, i, i+1)
}

// paces hold how fast the streams of each node.ID begin. They outlive the
// streams, for as long as it takes until nothing is known of them any more.
type paces struct {
	all   *rate.Limiter
	nodes map[place]*rate.Limiter
	queue []paceExpiry // one a node, by time
}

// place is a node.ID on one host: whoever has a stolen token uses up a pace of
// its own.
type place struct{ node, host string }

type paceExpiry struct {
	place
	at time.Time
}

// forgetPace is when a node may begin as many streams at once as at first.
const forgetPace = nodeStreams / nodeStreamRate * time.Second

func newPaces(l Limits) *paces {
	return &paces{all: rate.NewLimiter(rate.Limit(l.StreamRate), l.StreamBurst), nodes: make(map[place]*rate.Limiter)}
}

// node reports whether a stream of the node may begin.
func (p *paces) node(of place) bool {
	now := time.Now()
	for len(p.queue) > 0 && !p.queue[0].at.After(now) {
		first := p.queue[0]
		p.queue = p.queue[1:]
		if p.nodes[first.place].TokensAt(now) >= nodeStreams {
			delete(p.nodes, first.place)
			continue
		}
		p.queue = append(p.queue, paceExpiry{first.place, now.Add(forgetPace)})
	}
	l := p.nodes[of]
	if l == nil {
		l = rate.NewLimiter(nodeStreamRate, nodeStreams)
		p.nodes[of] = l
		p.queue = append(p.queue, paceExpiry{of, now.Add(forgetPace)})
	}
	return l.AllowN(now, 1)
}

// hostOf returns the host of an address, without the port.
func hostOf(peer string) string {
	host, _, err := net.SplitHostPort(peer)
	if err != nil {
		return peer // a Unix socket
	}
	return host
}
