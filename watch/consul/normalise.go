package consul

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"datapunk.dev/controlplane/watch"
)

// entry is what is read of one element of /v1/health/service/:name. The rest,
// above all the output of checks, moves without meaning anything to a reader.
type entry struct {
	Node struct {
		Node, Address string
		Meta          map[string]string
		Locality      *locality
	}
	Service struct {
		ID, Service, Kind, Address, SocketPath string
		Port                                   int
		Tags                                   []string
		Meta                                   map[string]string
		Weights                                struct{ Passing, Warning int }
		Locality                               *locality
	}
	Checks []check
}

type locality struct{ Region, Zone string }

type check struct{ CheckID, Status string }

// Consul's own limits on metadata; a catalog that was written around its API
// is cut to them.
const (
	maxMeta      = 64
	maxMetaKey   = 128
	maxMetaValue = 512
	maxWeight    = 65535
)

// normalise makes a service of its entries. What cannot be served is left out
// with the reason.
func normalise(name string, entries []entry, as reading) *watch.Service {
	s := &watch.Service{Name: name}
	instances := make([]*watch.Instance, 0, len(entries))
	for i := range entries {
		e := &entries[i]
		if !e.of(name) {
			continue
		}
		instance, reason := e.instance(as)
		if reason != "" {
			s.Exclude(e.Service.ID, reason)
			continue
		}
		instances = append(instances, instance)
	}
	s.SetInstances(instances)
	return s
}

// of reports whether the entry is the service's. Consul compares names without
// their case, and answers for one with the entries of all that are written alike.
func (e *entry) of(service string) bool {
	return e.Service.Service == "" || e.Service.Service == service
}

// reading is what entries alone do not say.
type reading struct {
	datacenter string   // whose they are; empty: there is one
	nodeMeta   []string // the keys that are wanted of their nodes' metadata
}

// instance returns the instance, or why it cannot be served.
func (e *entry) instance(as reading) (*watch.Instance, string) {
	addr, host, reason := e.address()
	if reason != "" {
		return nil, reason
	}
	i := &watch.Instance{
		ID: e.Service.ID, Address: addr, Host: host, Port: uint16(e.Service.Port),
		Health: health(e.Checks), Datacenter: as.datacenter, Zone: e.zone(), Tags: tags(e.Service.Tags), Meta: meta(e.Service.Meta),
	}
	i.NodeMeta = e.nodeMeta(i.Meta, as.nodeMeta)
	i.Weight = e.weight(i.Health)
	if i.MeshPort, reason = e.meshPort(); reason != "" {
		return nil, reason
	}
	return i, ""
}

// meshPort is where the instance's sidecar takes mTLS, 0 if it has none.
func (e *entry) meshPort() (uint16, string) {
	text, ok := e.Service.Meta[watch.MetaMeshPort]
	if !ok {
		return 0, ""
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil || port == 0 {
		return 0, fmt.Sprintf("meta mesh_port %.20q is not a port", text)
	}
	return uint16(port), ""
}

// address is where the instance is: an IP address, or a host name that each
// proxy resolves, or neither for the reason.
func (e *entry) address() (addr netip.Addr, host, reason string) {
	switch {
	case e.Service.Kind != "":
		return addr, "", fmt.Sprintf("it is a %s", e.Service.Kind)
	case e.Service.SocketPath != "":
		return addr, "", "it listens on a socket"
	case e.Service.Port < 1 || e.Service.Port > 65535:
		return addr, "", fmt.Sprintf("port %d", e.Service.Port)
	}
	text := cmp.Or(e.Service.Address, e.Node.Address)
	addr, err := netip.ParseAddr(text)
	switch {
	case err != nil:
		if host, reason = watch.Hostname(text); reason != "" {
			reason = fmt.Sprintf("address %.80q %s", text, reason)
		}
		return netip.Addr{}, host, reason
	case addr.Zone() != "":
		return netip.Addr{}, "", fmt.Sprintf("address %.80q is not an IP address that others can reach", text)
	case addr.IsUnspecified(), addr.IsMulticast():
		return netip.Addr{}, "", fmt.Sprintf("nothing can connect to address %s", addr)
	}
	return addr.Unmap(), "", ""
}

// health is what the checks of an instance and of its node amount to.
func health(checks []check) watch.Health {
	h := watch.Passing
	for _, c := range checks {
		// Consul marks maintenance by a critical check with a name of its own.
		// It wins: who drains an instance expects its checks to fail.
		if c.CheckID == "_node_maintenance" || strings.HasPrefix(c.CheckID, "_service_maintenance:") {
			return watch.Maintenance
		}
		switch c.Status {
		case "passing":
		case "warning":
			h = max(h, watch.Warning)
		default:
			h = watch.Critical
		}
	}
	return h
}

// weight is the one of the instance's state. An entry written by the catalog
// API may have none at all, and counts as Consul's default.
func (e *entry) weight(h watch.Health) uint32 {
	w := e.Service.Weights
	if w.Passing == 0 && w.Warning == 0 {
		return 1
	}
	if h == watch.Warning {
		return uint32(min(max(w.Warning, 0), maxWeight))
	}
	return uint32(min(max(w.Passing, 0), maxWeight))
}

// zone is the service's locality, else its node's, else what their metadata say.
func (e *entry) zone() string {
	for _, l := range []*locality{e.Service.Locality, e.Node.Locality} {
		if l != nil && l.Zone != "" {
			return l.Zone
		}
	}
	return cmp.Or(e.Service.Meta["zone"], e.Node.Meta["zone"])
}

// nodeMeta is what is wanted of the node's metadata and is not in the instance's own.
func (e *entry) nodeMeta(own map[string]string, keys []string) map[string]string {
	var wanted map[string]string
	for _, key := range keys {
		v, has := e.Node.Meta[key]
		if _, itself := own[key]; itself || !has || len(v) > maxMetaValue {
			continue
		}
		if wanted == nil {
			wanted = make(map[string]string)
		}
		wanted[key] = v
	}
	return wanted
}

func tags(in []string) []string {
	if len(in) == 0 {
		return nil
	}
	out := slices.Clone(in)
	slices.Sort(out)
	return slices.Compact(out)
}

func meta(in map[string]string) map[string]string {
	if len(in) == 0 {
		return nil
	}
	ours := strings.HasPrefix(in[watch.MetaManagedBy], watch.ManagedBy)
	out := make(map[string]string, len(in))
	for _, k := range slices.Sorted(maps.Keys(in)) {
		if ours && (k == watch.MetaManagedBy || k == watch.MetaOwner || k == watch.MetaSince) {
			continue // an instance that passes from one replica to another has not changed
		}
		if v := in[k]; len(k) <= maxMetaKey && len(v) <= maxMetaValue && len(out) < maxMeta {
			out[k] = v
		}
	}
	return out
}
