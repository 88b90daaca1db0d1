package admin

import (
	"cmp"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/common/model"

	"datapunk.dev/controlplane/admin/api"
	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/xds"
)

// keepTarget is how long a proxy stays a target after it was last connected:
// long enough for its absence to be seen as up == 0 and not as nothing.
const keepTarget = 10 * time.Minute

// What a proxy can make Prometheus keep: more proxies than a fleet has, and
// longer labels than names are, come from one that lies.
const (
	maxTargets = 50_000
	maxLabel   = 128 // bytes
)

// Scrape is how Prometheus should read a proxy's metrics.
type Scrape struct {
	Enabled  bool
	Path     string
	Interval time.Duration
	Port     uint16 // of proxies whose metadata has none; 0: they are no targets
}

// targetGroup is one entry of Prometheus's HTTP service discovery.
type targetGroup struct {
	Targets []string          `json:"targets"`
	Labels  map[string]string `json:"labels"`
}

// Targets remembers the proxies of the last ten minutes, over a restart too.
type Targets struct {
	registered func(service string, at netip.Addr) bool
	scrape     func() Scrape
	kept       *keptTargets // nil: it forgets them

	mu   sync.Mutex
	seen map[string]target // by node.id
}

type target struct {
	Address string    `json:"address"`
	Service string    `json:"service"`
	Node    string    `json:"node"`
	Zone    string    `json:"zone,omitempty"`
	Last    time.Time `json:"last"`
	Replica string    `json:"replica,omitempty"` // that it was connected to last
}

// NewTargets returns the memory of the proxies that Prometheus was told of. Registered
// reports whether the catalog has an instance of the service at the address.
func NewTargets(registered func(string, netip.Addr) bool, scrape func() Scrape) *Targets {
	return &Targets{registered: registered, scrape: scrape, seen: make(map[string]target)}
}

// list returns every proxy that is connected or was ten minutes ago, ordered
// by address.
func (t *Targets) list(fleet Fleet) []targetGroup {
	how := t.scrape()
	if !how.Enabled {
		return []targetGroup{}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	changed := false
	for _, p := range fleet.Proxies {
		port := cmp.Or(p.Profile.MetricsPort, how.Port)
		if port == 0 || p.Profile.Kind != resource.Sidecar {
			continue
		}
		one := target{
			Address: net.JoinHostPort(t.host(p), strconv.Itoa(int(port))),
			Service: label(p.Service), Node: label(p.Node), Zone: label(p.Profile.Zone), Last: now, Replica: p.Replica,
		}
		before := t.seen[p.Node]
		changed = changed || before.Address != one.Address || before.Service != one.Service || before.Zone != one.Zone
		t.seen[p.Node] = one
	}
	for node, s := range t.seen {
		// A replica that does not answer has lost none of its proxies by that.
		if slices.ContainsFunc(fleet.Unanswered, func(u api.Unanswered) bool { return u.Replica == s.Replica }) {
			s.Last = now
			t.seen[node] = s
		}
	}
	known := len(t.seen)
	maps.DeleteFunc(t.seen, func(_ string, s target) bool {
		return now.Sub(s.Last) > keepTarget || len(t.seen) > maxTargets && s.Last != now
	})
	t.kept.listed(changed || len(t.seen) < known, now)

	groups := make([]targetGroup, 0, len(t.seen))
	for _, s := range t.seen {
		labels := map[string]string{
			"__metrics_path__":    how.Path,
			"__scrape_interval__": model.Duration(how.Interval).String(),
			// Prometheus refuses a timeout above the interval; 10 s is its default.
			"__scrape_timeout__": model.Duration(min(how.Interval, 10*time.Second)).String(),
			"service":            s.Service,
			"node":               s.Node,
		}
		if s.Zone != "" {
			labels["zone"] = s.Zone
		}
		groups = append(groups, targetGroup{Targets: []string{s.Address}, Labels: labels})
	}
	slices.SortFunc(groups, func(a, b targetGroup) int {
		return cmp.Or(cmp.Compare(a.Targets[0], b.Targets[0]), cmp.Compare(a.Labels["node"], b.Labels["node"]))
	})
	return groups
}

// host is where Prometheus reaches the proxy: the address of its own metadata
// if the catalog or its connection shows the same, else where its stream comes
// from. What a proxy says alone would have Prometheus ask whomever it likes.
func (t *Targets) host(p xds.ProxyStatus) string {
	host, _, err := net.SplitHostPort(p.Peer)
	if err != nil {
		host = "127.0.0.1" // a Unix socket: the proxy is on this machine
	}
	said, err := netip.ParseAddr(p.Profile.Address)
	if err != nil || said.IsUnspecified() {
		return host
	}
	from, err := netip.ParseAddr(host)
	sameMachine := err == nil && said.IsLoopback() && from.IsLoopback()
	if sameMachine || t.registered(p.Service, said) {
		return p.Profile.Address
	}
	return host
}

// label is a value that a proxy chose, cut to what a name may be.
func label(s string) string {
	if len(s) > maxLabel {
		s = s[:maxLabel]
	}
	return strings.ToValidUTF8(s, "")
}
