package consul

import (
	"context"
	"maps"
	"net/netip"
	"net/url"
	"strings"

	"datapunk.dev/controlplane/consul"
	"datapunk.dev/controlplane/watch"
)

// place tells instances of a service apart: what is dialed. [watch.Distinct]
// makes it unique.
type place = watch.Place

func at(i *watch.Instance) place { return i.Dialed() }

// origin is the one entry of the catalog that an instance is: a node has one of
// an ID, and both ignore case.
type origin struct{ node, id string }

func originOf(node, id string) origin { return origin{strings.ToLower(node), strings.ToLower(id)} }

// answer is what a query of a service said.
type answer struct {
	service *watch.Service
	from    map[place]origin
	// unselected are the places of instances that are there, and that the mesh file
	// leaves out.
	unselected map[place]struct{}
	index      uint64
	// filtered says that the token may not see all of it; of what is streamed that is
	// not known.
	filtered, streamed bool
}

// readEntries makes an answer of a service's entries.
func readEntries(name string, entries []entry, as reading, of *consul.Answer) answer {
	a := answer{
		service: normalise(name, entries, as), from: make(map[place]origin, len(entries)), index: of.Index,
		filtered: of.Filtered, streamed: of.Streamed,
	}
	for i := range entries {
		e := &entries[i]
		addr, host, reason := e.address()
		if reason != "" || !e.of(name) {
			continue
		}
		port, _ := e.meshPort()
		if port == 0 {
			port = uint16(e.Service.Port)
		}
		p := place{AddrPort: netip.AddrPortFrom(addr, port), Host: host}
		if _, twice := a.from[p]; !twice {
			a.from[p] = originOf(e.Node.Node, e.Service.ID)
		}
	}
	return a
}

// choose leaves out what is not selected. It is for the goroutine of Run, by what is
// demanded now: an answer may have been under way when that changed.
func (a *answer) choose(of watch.Selection) {
	whole := a.service
	if a.service = of.Instances(whole); a.service == whole {
		return
	}
	left := without(placesOf(whole), placesOf(a.service))
	maps.Copy(left, a.unselected)
	a.unselected = left
}

func placesOf(s *watch.Service) map[place]struct{} {
	places := make(map[place]struct{}, len(s.Instances))
	for _, i := range s.Instances {
		places[at(i)] = struct{}{}
	}
	return places
}

// stay is how many of known the answer has, with all that are new; one that is not
// selected has not gone.
func (a *answer) stay(known *watch.Service) int {
	n := len(a.service.Instances)
	for _, i := range known.Instances {
		if _, ok := a.unselected[at(i)]; ok {
			n++
		}
	}
	return n
}

// has reports whether the answer has the entry, wherever it listens.
func (a *answer) has(o origin) bool {
	for _, other := range a.from {
		if other == o {
			return true
		}
	}
	return false
}

// word is what the node of an entry that is gone says of it.
type word uint8

const (
	silent  word = iota
	renamed      // the entry is there, as another service's
	alone        // it went, and others of the node stayed: nobody took the node away
)

// maxNodes is how many nodes are asked with one confirming read.
const maxNodes = 8

// askNodes asks the nodes of entries of a service that are gone. Believed is the
// index at which they were there: a node that is younger came back meanwhile, and
// may be about to have them again.
func (s *Source) askNodes(ctx context.Context, service string, gone map[place]origin, believed uint64) (map[place]word, error) {
	nodes := make(map[string]map[origin]place)
	for p, o := range gone {
		if nodes[o.node] == nil {
			if len(nodes) == maxNodes {
				continue
			}
			nodes[o.node] = make(map[origin]place)
		}
		nodes[o.node][o] = p
	}
	words := make(map[place]word)
	for name, entries := range nodes {
		a, err := s.read(ctx, query{path: "/v1/catalog/node-services/" + url.PathEscape(name), consistent: true})
		if err != nil {
			return nil, err
		}
		var node struct {
			Node     *struct{ CreateIndex uint64 }
			Services []struct{ ID, Service string }
		}
		if err := a.Decode(&node); err != nil {
			return nil, err
		}
		if node.Node == nil {
			continue
		}
		others := false
		there := make(map[place]bool)
		for _, entry := range node.Services {
			p, was := entries[originOf(name, entry.ID)]
			switch {
			case !was:
				others = others || entry.Service != canary
			case entry.Service != service:
				words[p] = renamed
				fallthrough
			default:
				there[p] = true
			}
		}
		for _, p := range entries {
			if others && !there[p] && node.Node.CreateIndex <= believed {
				words[p] = alone
			}
		}
	}
	return words, nil
}
