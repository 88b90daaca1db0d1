package xds

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	// contestedAt is from how many streams that a newer one of their node.id ended
	// it is contested. A proxy that lost its connection ends one, its own, before
	// the server notices; two proxies end each other's for as long as they live, at
	// the pace of Envoy's back-off: 14 in 15 s.
	contestedAt = 3
	// contestRest is after how long without another one a contest is over.
	contestRest = 2 * time.Minute
	// maxContests bounds how many node.ids are watched for one.
	maxContests = 1024
)

// errContested is errSuperseded for who will come back and do the same.
var errContested = status.Error(codes.Aborted, "a newer stream of the same node.id has taken over, again: two proxies have this node.id")

// contests are the node.ids whose streams newer ones have ended lately.
type contests map[string]*contest

type contest struct {
	since, last time.Time
	ended       int // streams
	older, by   side
}

// side is one of those who use a node.id.
type side struct{ service, host string }

func (s side) String() string { return fmt.Sprintf("%s on %s", s.service, s.host) }

// Contest is a node.id that two proxies use. Each ends the stream of the other,
// so neither is served for long.
type Contest struct {
	Node string
	// One and Other are SERVICE on HOST. They are equal for two proxies of one
	// service on one host.
	One, Other string
	Since      time.Time
}

// String is what an operator is told.
func (c Contest) String() string {
	who := c.One + " and " + c.Other
	if c.One == c.Other {
		who = "both " + c.One
	}
	return fmt.Sprintf("two proxies have the node.id %q (%s) and end each other's streams: give each its own", c.Node, who)
}

// ended notes that a stream ended for the sake of a newer one, and returns the
// contest that this makes; nil if it is none, or not yet.
func (cs contests) ended(node string, older, by side, now time.Time) *contest {
	c := cs[node]
	if c == nil || now.Sub(c.last) >= contestRest {
		if c == nil && len(cs) >= maxContests {
			for node, old := range cs {
				if now.Sub(old.last) >= contestRest {
					delete(cs, node)
				}
			}
			if len(cs) >= maxContests {
				return nil
			}
		}
		c = &contest{since: now}
		cs[node] = c
	}
	c.ended++
	c.last, c.older, c.by = now, older, by
	if c.ended < contestedAt {
		return nil
	}
	return c
}

func (c *contest) shown(node string) Contest {
	one, other := c.older.String(), c.by.String()
	return Contest{Node: node, One: min(one, other), Other: max(one, other), Since: c.since}
}

// Contests returns the node.ids that two proxies use, by name.
func (s *Server) Contests() []Contest {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []Contest
	now := time.Now()
	for node, c := range s.contests {
		if c.ended >= contestedAt && now.Sub(c.last) < contestRest {
			list = append(list, c.shown(node))
		}
	}
	slices.SortFunc(list, func(a, b Contest) int { return cmp.Compare(a.Node, b.Node) })
	return list
}

// supersede ends a stream for the sake of a newer one of the same node.id.
func (s *Server) supersede(old, by *stream) {
	s.metrics.superseded.Inc()
	older, newer := side{old.node.Cluster, old.host}, side{by.node.Cluster, by.host}
	c := s.contests.ended(by.node.ID, older, newer, time.Now())
	if c != nil {
		if c.ended == contestedAt {
			s.options.Logger.Error(c.shown(by.node.ID).String(), "node", by.node.ID, "service", newer.service, "peer", newer.host,
				"older_service", older.service, "older", older.host)
		}
		old.end(errContested)
		return
	}
	if older.host != newer.host {
		s.options.Logger.Warn("a node.id came from another host: its older stream ends", "node", by.node.ID, "service", newer.service,
			"peer", newer.host, "older", older.host)
	}
	old.end(errSuperseded)
}
