package why

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	compositev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/clusters/composite/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"datapunk.dev/controlplane/resource"
)

// upstream is a cluster that a call goes to, with its instances.
type upstream struct {
	name    string
	cluster *clusterv3.Cluster
	hosts   []host
	panics  bool // too few are healthy, so others are called too
	// overprovisioning is how many percent of the calls that are its share a healthy
	// host is trusted with, before others of a lower priority are called.
	overprovisioning int
}

// host is one endpoint.
type host struct {
	address  string // host:port
	resolves bool   // it is a name
	healthy  bool
	health   corev3.HealthStatus
	priority uint32
	called   bool             // by the cluster's load balancer
	metadata *structpb.Struct // envoy.transport_socket_match
}

// callable are the hosts that a call may go to.
func (u *upstream) callable() []host {
	var some []host
	for _, h := range u.hosts {
		if h.called {
			some = append(some, h)
		}
	}
	return some
}

// upstreamOf finds a cluster, of one in front of others the first that has somebody
// to call, as a first try does. It is nil if the caller is served none of the name.
func (w *walk) upstreamOf(name string) (*upstream, error) {
	r := w.served(resource.Cluster, name)
	if r == nil {
		return nil, nil
	}
	u := &upstream{name: name, cluster: &clusterv3.Cluster{}}
	if err := proto.Unmarshal(r.Body, u.cluster); err != nil {
		return nil, fmt.Errorf("cluster %s: %w", name, err)
	}
	var composite compositev3.ClusterConfig
	if custom := u.cluster.GetClusterType().GetTypedConfig(); custom.MessageIs(&composite) {
		if err := custom.UnmarshalTo(&composite); err != nil {
			return nil, fmt.Errorf("cluster %s: %w", name, err)
		}
		return w.firstMember(u, &composite)
	}
	assignment := u.cluster.GetLoadAssignment()
	if assignment == nil {
		assignment = &endpointv3.ClusterLoadAssignment{}
		if r := w.served(resource.Endpoint, name); r != nil {
			if err := proto.Unmarshal(r.Body, assignment); err != nil {
				return nil, fmt.Errorf("endpoints of %s: %w", name, err)
			}
		}
	}
	u.hosts, u.overprovisioning = hostsOf(assignment), usualOverprovisioning
	if f := assignment.GetPolicy().GetOverprovisioningFactor(); f != nil {
		u.overprovisioning = int(f.GetValue())
	}
	u.balance()
	return u, nil
}

func (w *walk) firstMember(front *upstream, of *compositev3.ClusterConfig) (*upstream, error) {
	var last *upstream
	for _, member := range of.GetClusters() {
		u, err := w.upstreamOf(member.GetName())
		if err != nil {
			return nil, err
		}
		if u == nil {
			continue
		}
		if last = u; len(u.callable()) > 0 {
			return u, nil
		}
	}
	if last == nil {
		return nil, errors.New("cluster " + front.name + " stands in front of clusters that are not there")
	}
	return last, nil
}

func hostsOf(a *endpointv3.ClusterLoadAssignment) []host {
	var all []host
	for _, group := range a.GetEndpoints() {
		for _, e := range group.GetLbEndpoints() {
			at := e.GetEndpoint().GetAddress().GetSocketAddress()
			h := host{
				address:  net.JoinHostPort(at.GetAddress(), strconv.Itoa(int(at.GetPortValue()))),
				resolves: net.ParseIP(at.GetAddress()) == nil,
				health:   e.GetHealthStatus(),
				priority: group.GetPriority(),
				metadata: e.GetMetadata().GetFilterMetadata()["envoy.transport_socket_match"],
			}
			h.healthy = h.health == corev3.HealthStatus_UNKNOWN || h.health == corev3.HealthStatus_HEALTHY || h.health == corev3.HealthStatus_DEGRADED
			all = append(all, h)
		}
	}
	return all
}

const (
	usualPanicThreshold   = 50  // percent, Envoy's own
	usualOverprovisioning = 140 // percent, Envoy's own
)

// balance finds which hosts are called, as Envoy's load balancers do. Priorities are
// called in their order until there is room for all calls. Where all of them together
// have none, those of which too few are healthy are called whole.
func (u *upstream) balance() {
	threshold := float64(usualPanicThreshold)
	if t := u.cluster.GetCommonLbConfig().GetHealthyPanicThreshold(); t != nil {
		threshold = t.GetValue()
	}
	total, healthy := make(map[uint32]int), make(map[uint32]int)
	for _, h := range u.hosts {
		total[h.priority]++
		if h.healthy {
			healthy[h.priority]++
		}
	}
	room := func(p uint32) int { return min(100, u.overprovisioning*healthy[p]/total[p]) }
	sum, everywhere := 0, true
	panics := make(map[uint32]bool)
	for p := range total {
		sum += room(p)
		panics[p] = float64(healthy[p])*100/float64(total[p]) < threshold
		everywhere = everywhere && panics[p]
	}
	called := make(map[uint32]bool)
	left := min(sum, 100)
	for _, p := range slices.Sorted(maps.Keys(total)) {
		called[p] = sum < 100 && everywhere || left > 0 && room(p) > 0
		left -= room(p)
	}
	for i := range u.hosts {
		h := &u.hosts[i]
		h.called = called[h.priority] && (h.healthy || sum < 100 && panics[h.priority])
		u.panics = u.panics || h.called && !h.healthy
	}
}

// socket is how a host is dialed.
type socket struct {
	tls      bool
	identity string // that the callee must show
}

func socketOf(u *upstream, h host) (socket, error) {
	transport := u.cluster.GetTransportSocket()
	for _, match := range u.cluster.GetTransportSocketMatches() {
		if within(match.GetMatch(), h.metadata) {
			transport = match.GetTransportSocket()
			break
		}
	}
	var context tlsv3.UpstreamTlsContext
	if !transport.GetTypedConfig().MessageIs(&context) {
		return socket{}, nil
	}
	if err := transport.GetTypedConfig().UnmarshalTo(&context); err != nil {
		return socket{}, fmt.Errorf("cluster %s: %w", u.name, err)
	}
	s := socket{tls: true}
	for _, san := range context.GetCommonTlsContext().GetCombinedValidationContext().GetDefaultValidationContext().GetMatchTypedSubjectAltNames() {
		s.identity = san.GetMatcher().GetExact()
	}
	return s, nil
}

// within reports whether all that is wanted is in what there is.
func within(wanted, got *structpb.Struct) bool {
	for key, v := range wanted.GetFields() {
		if !proto.Equal(v, got.GetFields()[key]) {
			return false
		}
	}
	return true
}

// serviceOf is the service, and the subset, whose cluster has the name.
func serviceOf(cluster string) (service, subset string) {
	service, subset, _ = strings.Cut(cluster, "|")
	subset, _, _ = strings.Cut(subset, "|")
	return service, subset
}
