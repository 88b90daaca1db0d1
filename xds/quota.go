package xds

import (
	"slices"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"datapunk.dev/controlplane/resource"
)

// What one node.id may have. An Envoy has one stream, or one for each of the
// separate services; a process with gRPC's own client has one for each service
// that it calls.
const (
	// maxNodeStreams is how many streams it may have at once, and begin at once;
	// nodeStreamRate how many more may begin a second.
	maxNodeStreams = 64
	nodeStreamRate = 2
	// maxNodeProfiles is how many profiles its streams may show at once. Each is
	// configuration that is made and kept: an Envoy has one, what fetches
	// certificates beside it another.
	maxNodeProfiles = 4
)

// nodeStreams is what the server has of a node.id while it has streams. All of
// them are of one service and come from one host.
type nodeStreams struct {
	service, host string
	streams       []*stream
}

// refuse counts a stream that may not begin, or not go on, because of a limit
// or of what it sent.
func (s *Server) refuse(reason string, code codes.Code, format string, args ...any) error {
	s.metrics.refused.WithLabelValues(reason).Inc()
	return status.Errorf(code, format, args...)
}

// joinNodeLocked puts a stream among those of its node.id, whose profile is to be p.
//
// The newest wins: "a stolen token shows". A stream from another host, or of
// another service, ends all those before it, whatever they are for. On one host
// the newest ADS stream ends the one before it, since a proxy that lost its
// connection is back before the server notices that the old one is dead; the
// separate services stand beside it.
func (s *Server) joinNodeLocked(st *stream, p resource.Profile) error {
	r := s.nodes[st.node.ID]
	if r != nil && (r.host != st.host || r.service != st.node.Cluster) {
		for _, old := range r.streams {
			s.supersede(old, st)
		}
		r = nil
	}
	if r == nil {
		r = &nodeStreams{service: st.node.Cluster, host: st.host}
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
	if len(r.streams) >= maxNodeStreams {
		return s.refuse("node_streams", codes.ResourceExhausted, "node %q has %d streams", st.node.ID, maxNodeStreams)
	}
	profiles := []resource.Profile{p}
	for _, other := range r.streams {
		if !slices.Contains(profiles, other.slot.profile) {
			profiles = append(profiles, other.slot.profile)
		}
	}
	if len(profiles) > maxNodeProfiles {
		return s.refuse("node_profiles", codes.ResourceExhausted, "node %q shows more than %d profiles at once", st.node.ID, maxNodeProfiles)
	}
	r.streams = append(r.streams, st)
	st.siblings = r
	return nil
}

// joins reports whether an ADS stream may stand beside an older one of its
// node.id: some kinds of clients have several of one process.
func (s *stream) joins(old *stream, p resource.Profile) bool {
	return p.Kind.StreamsOfOne() && old.slot.profile == p
}

// leaveNodeLocked takes a stream out of those of its node.id.
func (s *Server) leaveNodeLocked(st *stream) {
	r := st.siblings
	r.remove(st)
	if len(r.streams) == 0 && s.nodes[st.node.ID] == r {
		delete(s.nodes, st.node.ID)
	}
}

func (r *nodeStreams) remove(st *stream) {
	i := slices.Index(r.streams, st)
	if i < 0 {
		return
	}
	r.streams = slices.Delete(r.streams, i, i+1)
}

// streamRates hold how fast the streams of each node.id begin. They outlive the
// streams, for as long as it takes until nothing is known of them any more.
type streamRates struct {
	all   *rate.Limiter
	cost  streamCost // by which the limit of all is set
	nodes map[nodeHost]*rate.Limiter
	queue []rateExpiry // one a node, by time
}

// nodeHost is a node.id on one host: whoever has a stolen token uses up a rate of
// its own.
type nodeHost struct{ node, host string }

type rateExpiry struct {
	nodeHost
	at time.Time
}

// forgetRate is when a node may begin as many streams at once as at first.
const forgetRate = maxNodeStreams / nodeStreamRate * time.Second

func newStreamRates(l Limits) *streamRates {
	most := rate.Limit(l.StreamRate)
	all := rate.NewLimiter(most, l.StreamBurst)
	return &streamRates{all: all, cost: streamCost{limiter: all, most: most, used: l.CPU}, nodes: make(map[nodeHost]*rate.Limiter)}
}

// node reports whether a stream of the node may begin.
func (p *streamRates) node(of nodeHost) bool {
	now := time.Now()
	for len(p.queue) > 0 && !p.queue[0].at.After(now) {
		first := p.queue[0]
		p.queue = p.queue[1:]
		if p.nodes[first.nodeHost].TokensAt(now) >= maxNodeStreams {
			delete(p.nodes, first.nodeHost)
			continue
		}
		p.queue = append(p.queue, rateExpiry{first.nodeHost, now.Add(forgetRate)})
	}
	l := p.nodes[of]
	if l == nil {
		l = rate.NewLimiter(nodeStreamRate, maxNodeStreams)
		p.nodes[of] = l
		p.queue = append(p.queue, rateExpiry{of, now.Add(forgetRate)})
	}
	return l.AllowN(now, 1)
}
