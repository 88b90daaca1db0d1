package consul

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"datapunk.dev/controlplane/watch"
)

// Config is how to read Consul.
type Config struct {
	Address    string // host:port of an agent's HTTP API
	Scheme     string // "http" (default) or "https"
	Datacenter string // empty: the agent's own
	Token      string // sent with each request; empty: anonymous
	TokenFile  string // wins over Token; read again when it changes
	TLS        TLS    // for scheme https

	// Consistency of the watches: "stale" (default) lets any server answer,
	// "default" and "consistent" need a leader.
	Consistency string
	// Wait is how long a query blocks when nothing changes; default 55 s, at
	// most 10 min. It bounds for how long an index that Consul no longer knows
	// can blind a watch.
	Wait time.Duration
	// MaxConnections is the budget of HTTP/1.1 connections; default 150, at
	// least 16. An agent's own limit is 200 a client.
	MaxConnections int
	// Guard says which removals are held.
	Guard Guard
}

// TLS is the TLS material. The client's certificate is read again at each
// handshake, the CA at start.
type TLS struct {
	CAFile, CertFile, KeyFile string
	ServerName                string // empty: the address's host
}

// Guard says which removals are not believed at once. Zero values are replaced
// by the defaults.
type Guard struct {
	// Service is the share of a service's instances that may go at once; 0.5.
	// The last instances of a service are always confirmed.
	Service float64
	// Mesh is the share of all instances that may go within Window, and Window
	// its length; 0.15 and 60 s.
	Mesh   float64
	Window time.Duration
	// Confirm is the time to the first confirming read, and between the two;
	// 3 s. An agent that restarts is back within that time, and a service that
	// was scaled to zero is gone after 6 s.
	Confirm time.Duration
	// Restored is how long removals are held after Consul's index went back (a
	// server wiped, or restored from a snapshot); 2 min, two of the periods in
	// which agents register again what their server does not know.
	Restored time.Duration
}

// Demand is which services are wanted.
type Demand struct {
	// Services are wanted by name, whether the catalog has them or not.
	Services []string
	// MeshOnly adds the services that have an instance with meta mesh_port;
	// without it, every service is added that is no proxy or gateway, nor
	// Consul itself.
	MeshOnly bool
}

func (d Demand) clone() Demand {
	d.Services = slices.Clone(d.Services)
	return d
}

// canary is the service that every Consul has: its servers. Where a token
// could see it and no longer can, the token has lost its rights.
const canary = "consul"

// filter is the bexpr that selects the demanded services, and the canary, of
// /v1/catalog/services. A sidecar registered by Consul inherits its parent's
// metadata: hence the kind.
func (d Demand) filter() string {
	if d.MeshOnly {
		return fmt.Sprintf(`ServiceKind == "" and (%q in ServiceMeta or ServiceName == %q)`, watch.MetaMeshPort, canary)
	}
	return `ServiceKind == ""`
}

// spare is how many connections of the budget the blocking queries of services
// leave to the list, the trigger, and reads that do not block.
const spare = 2 + shortReads

func (c Config) withDefaults() (Config, error) {
	if c.Scheme == "" {
		c.Scheme = "http"
	}
	if c.Consistency == "" {
		c.Consistency = "stale"
	}
	if c.Wait == 0 {
		c.Wait = 55 * time.Second
	}
	if c.MaxConnections == 0 {
		c.MaxConnections = 150
	}
	c.Guard = c.Guard.withDefaults()
	var errs []error
	if _, port, err := net.SplitHostPort(c.Address); err != nil || port == "" {
		errs = append(errs, fmt.Errorf("address %q is not host:port", c.Address))
	}
	if c.Scheme != "http" && c.Scheme != "https" {
		errs = append(errs, fmt.Errorf("scheme %q is neither http nor https", c.Scheme))
	}
	if c.Scheme == "http" && c.TLS != (TLS{}) {
		errs = append(errs, errors.New("TLS files are given, and the scheme is http"))
	}
	if (c.TLS.CertFile == "") != (c.TLS.KeyFile == "") {
		errs = append(errs, errors.New("a client certificate needs both its file and its key's"))
	}
	if !slices.Contains([]string{"stale", "default", "consistent"}, c.Consistency) {
		errs = append(errs, fmt.Errorf("consistency %q is none of stale, default, consistent", c.Consistency))
	}
	if c.Wait < time.Second || c.Wait > 10*time.Minute {
		errs = append(errs, fmt.Errorf("wait %s is not from 1s to 10m", c.Wait))
	}
	if c.MaxConnections < 16 {
		errs = append(errs, fmt.Errorf("%d connections are fewer than 16", c.MaxConnections))
	}
	if strings.ContainsFunc(c.Token, notInToken) {
		errs = append(errs, errors.New("the token has characters that no header can carry"))
	}
	return c, errors.Join(errs...)
}

func notInToken(r rune) bool { return r <= ' ' || r > '~' }

func (g Guard) withDefaults() Guard {
	if g.Service == 0 {
		g.Service = 0.5
	}
	if g.Mesh == 0 {
		g.Mesh = 0.15
	}
	if g.Window == 0 {
		g.Window = time.Minute
	}
	if g.Confirm == 0 {
		g.Confirm = 3 * time.Second
	}
	if g.Restored == 0 {
		g.Restored = 2 * time.Minute
	}
	return g
}
