package register

import (
	"encoding/hex"
	"hash/fnv"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"datapunk.dev/controlplane/watch"
)

// Proxy is a connected proxy that has proved who it is, and says where it listens.
type Proxy struct {
	Node           string // node.id
	Service        string // in the catalog
	Address        netip.Addr
	Port, MeshPort uint16 // of its application, and its own
	Version, Zone  string
	Tags           []string
	Meta           map[string]string
	Checked        bool      // its application is, by what stands beside it
	Since          time.Time // of its connection
}

// at is where it takes the calls of its peers.
func (p *Proxy) at() netip.AddrPort { return netip.AddrPortFrom(p.Address, p.MeshPort) }

func (p *Proxy) equal(o *Proxy) bool {
	return p.Node == o.Node && p.Service == o.Service && p.Address == o.Address && p.Port == o.Port && p.MeshPort == o.MeshPort &&
		p.Version == o.Version && p.Zone == o.Zone && p.Checked == o.Checked && slices.Equal(p.Tags, o.Tags) && maps.Equal(p.Meta, o.Meta)
}

// Health is the status of an entry's check, in Consul's words.
type Health string

// The states of an entry's check.
const (
	Passing  Health = "passing"
	Warning  Health = "warning"
	Critical Health = "critical"
)

// entry is an instance as the catalog is to have it.
type entry struct {
	node    string // Consul's, of this instance alone
	id      string
	service string
	address string
	port    uint16
	tags    []string
	meta    map[string]string // without owner and manager
	health  Health
	// Of a proxy's: whether its application is checked, and what that came to.
	checked bool
	app     Health // empty: the catalog has no such check
}

// entryOf is what a proxy is to be in the catalog.
func entryOf(p *Proxy) entry {
	meta := make(map[string]string, len(p.Meta)+3)
	for k, v := range p.Meta {
		if metaKey(k) {
			meta[k] = v
		}
	}
	for k, v := range map[string]string{watch.MetaMeshPort: strconv.Itoa(int(p.MeshPort)), "version": p.Version, "zone": p.Zone} {
		if delete(meta, k); v != "" {
			meta[k] = v
		}
	}
	return entry{
		node: nodeName(p.Node), id: p.Node, service: p.Service, address: p.Address.String(), port: p.Port,
		tags: p.Tags, meta: meta, health: Passing, checked: p.Checked,
	}
}

// place is where an entry is called, for those who look for another one there.
type place struct {
	service, address string
	port             uint16
}

func (e *entry) place() place { return place{e.service, e.address, e.port} }

// equal reports whether both say the same to those who read the catalog.
func (e *entry) equal(o *entry) bool {
	return e.node == o.node && e.id == o.id && e.service == o.service && e.address == o.address && e.port == o.port &&
		slices.Equal(e.tags, o.tags) && maps.Equal(e.meta, o.meta)
}

// stored is an entry that the catalog has, or the node that is left of one.
type stored struct {
	entry
	owner     string // the replica that wrote it
	since     time.Time
	nodeIndex uint64
	nodeAddr  string
	index     uint64 // of the service; 0: the node has none of this id
	draining  bool   // our mark is on it, or may be
}

// nodeName is the name of a proxy's node in Consul, which ignores the case of names:
// two node.ids that differ in no more get two nodes.
func nodeName(id string) string {
	const prefix, longest = "mesh-", 100
	plain := strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z', '0' <= r && r <= '9', r == '-':
			return r
		case 'A' <= r && r <= 'Z':
			return r - 'A' + 'a'
		}
		return '-'
	}, id)
	if plain == id && len(id) <= longest {
		return prefix + id
	}
	h := fnv.New64a()
	_, _ = h.Write([]byte(id))
	return prefix + plain[:min(len(plain), longest)] + "-" + hex.EncodeToString(h.Sum(nil))
}

// metaKey reports whether Consul takes it as a key of metadata, and it is not one
// of those that say whose an entry is.
func metaKey(key string) bool {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"
	return !slices.Contains([]string{"", watch.MetaManagedBy, watch.MetaOwner, watch.MetaSince}, key) && strings.Trim(key, letters) == ""
}
