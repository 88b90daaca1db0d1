package xds

import (
	"maps"
	"slices"
	"strings"
	"time"

	"datapunk.dev/controlplane/resource"
)

// What a proxy has refused is remembered beyond its stream, so that one that
// loses its connection is not sent the same again, and so that its status
// still says why it lags behind.

const (
	// rememberNacks is how long the refusals of a proxy are remembered after
	// its last stream has ended. Envoy is back after 30 s at the latest.
	rememberNacks = 10 * time.Minute
	// maxNackingNodes and maxNacksOfNode bound what is remembered: of that many
	// proxies, and of each that many contents; maxPastNacks of all together.
	maxNackingNodes = 10_000
	maxNacksOfNode  = 100
	maxPastNacks    = 20_000
)

// nackMemory holds the NACKs of proxies by node.id. [Server.mu] guards it.
type nackMemory struct {
	nodes map[string]*nodeNacks
	queue []expiry // one a node, by time
	count int      // of refusals
}

// expiry is when to look whether a node is to be forgotten.
type expiry struct {
	node string
	at   time.Time
}

type nodeNacks struct {
	until   time.Time
	refused map[resource.Ref]*pastNack
}

// pastNack is one content that a proxy refused. It is immutable.
type pastNack struct {
	kind    resource.Kind // of the proxy
	version string
	depends uint64             // see rejection; without what the lease has
	before  *resource.Resource // what the proxy had, nil for nothing
	nack    *Nack
	// recalled says that an earlier process was told of it. What is served of the
	// content has no past in this one.
	recalled bool
}

func newNackMemory() *nackMemory { return &nackMemory{nodes: make(map[string]*nodeNacks)} }

// add remembers a refusal.
func (m *nackMemory) add(node string, ref resource.Ref, r *pastNack) {
	n := m.suspect(node)
	switch {
	case n.refused[ref] != nil:
	case len(n.refused) >= maxNacksOfNode || m.count >= maxPastNacks:
		return
	default:
		m.count++
	}
	n.refused[ref] = r
}

// drop forgets a node.
func (m *nackMemory) drop(node string) {
	if n := m.nodes[node]; n != nil {
		m.count -= len(n.refused)
		delete(m.nodes, node)
	}
}

// suspect remembers that the node has refused something, and returns what.
func (m *nackMemory) suspect(node string) *nodeNacks {
	n := m.nodes[node]
	if n == nil {
		if len(m.nodes) >= maxNackingNodes {
			m.drop(m.queue[0].node)
			m.queue = m.queue[1:]
		}
		n = &nodeNacks{refused: make(map[resource.Ref]*pastNack)}
		m.nodes[node] = n
		m.queue = append(m.queue, expiry{node, time.Now().Add(rememberNacks)})
	}
	n.until = time.Now().Add(rememberNacks)
	return n
}

// of returns what is remembered of a node, and whether anything is.
func (m *nackMemory) of(node string) (map[resource.Ref]*pastNack, bool) {
	if n := m.nodes[node]; n != nil {
		return maps.Clone(n.refused), true
	}
	return nil, false
}

// extend is told that a stream of the node has ended.
func (m *nackMemory) extend(node string) {
	if n := m.nodes[node]; n != nil {
		n.until = time.Now().Add(rememberNacks)
	}
}

// forget drops a refusal: the proxy has acknowledged something.
func (m *nackMemory) forget(node string, ref resource.Ref) {
	if n := m.nodes[node]; n != nil && n.refused[ref] != nil {
		delete(n.refused, ref)
		m.count--
	}
}

// before are what proxies had before they refused a content in an earlier process,
// each once.
func (m *nackMemory) recalled(c content) (had []*resource.Resource) {
	ref := c.typ.Ref(c.name)
	for _, n := range m.nodes {
		p := n.refused[ref]
		if p == nil || !p.recalled || p.kind != c.kind || p.version != c.version || p.before == nil || len(had) >= maxFallbacks {
			continue
		}
		if !slices.ContainsFunc(had, func(r *resource.Resource) bool { return r.Version == p.before.Version }) {
			had = append(had, p.before)
		}
	}
	slices.SortFunc(had, func(a, b *resource.Resource) int { return strings.Compare(a.Version, b.Version) })
	return had
}

// expire drops what is remembered of nodes that left long ago.
func (m *nackMemory) expire(connected func(node string) bool) {
	now := time.Now()
	for len(m.queue) > 0 && !m.queue[0].at.After(now) {
		node := m.queue[0].node
		m.queue = m.queue[1:]
		n := m.nodes[node]
		if connected(node) {
			n.until = now.Add(rememberNacks)
		}
		if !n.until.After(now) {
			m.drop(node)
			continue
		}
		m.queue = append(m.queue, expiry{node, n.until})
	}
}

// rememberNack notes that the client refused a resource, alone in its response.
func (s *stream) rememberNack(v *view, c change, n *Nack) {
	if c.res.Type == resource.Secret && leased(c.name) {
		return // there is no second one like it
	}
	r := &pastNack{kind: s.slot.profile.Kind, version: c.res.Version, depends: dependencies(v, 0, c.res), before: c.before, nack: n}
	s.hasPastNacks = true
	s.server.mu.Lock()
	defer s.server.mu.Unlock()
	s.server.memory.add(s.node.ID, c.res.Type.Ref(c.name), r)
	s.server.keepLater()
}

// suspectVersion notes that what the client has is not what its version says: it may
// have taken any part of what it refused.
func (s *stream) suspectVersion() {
	s.server.mu.Lock()
	defer s.server.mu.Unlock()
	s.server.memory.suspect(s.node.ID)
}

// forgetNacks drops what is remembered of names that the client has acknowledged.
func (s *stream) forgetNacks(t resource.Type, changes []change) {
	if !s.hasPastNacks {
		return
	}
	s.server.mu.Lock()
	defer s.server.mu.Unlock()
	for _, c := range changes {
		if !c.stays {
			s.server.memory.forget(s.node.ID, t.Ref(c.name))
			s.server.keepLater()
		}
	}
}

// recallNack has a resource rejected that the client refused on an earlier
// stream. What it had then is sent to it, unless it said that it has something.
// It does so once: from there on the stream itself knows.
func (s *stream) recallNack(v *view, target *resource.Resource, d *nameState) {
	ref := target.Type.Ref(target.Name)
	r := s.pastNacks[ref]
	if r == nil {
		return
	}
	delete(s.pastNacks, ref)
	if r.nack.Cause != "" {
		return // the port may be free now: it is tried once on each stream
	}
	if r.version != target.Version || r.depends != dependencies(v, 0, target) {
		return
	}
	d.rejectedEarlier(r.before, &rejection{version: r.version, depends: dependencies(v, s.secrets.count, target)})
}
