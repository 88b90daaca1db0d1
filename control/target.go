package control

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"datapunk.dev/controlplane/consul"
	"datapunk.dev/controlplane/policy"
)

// target is what tells one source from another.
type target struct {
	file   string
	consul consulTarget
}

type consulTarget struct {
	address                                    string
	fallbacks                                  string // others, with blanks in between
	scheme, datacenter, tokenFile, consistency string
	datacenters                                string // all that are read, with blanks in between; empty: datacenter alone
	tls                                        policy.ConsulTLS
}

func (c *Catalogs) target(m *policy.Mesh) target { return targetOf(c.override, m) }

func targetOf(override string, m *policy.Mesh) target {
	if path, ok := strings.CutPrefix(override, "file:"); ok {
		return target{file: path}
	}
	if override == "" && m.Discovery.Method == "file" {
		return target{file: m.Discovery.File}
	}
	d := m.Discovery.Consul
	return target{consul: consulTarget{
		address:     net.JoinHostPort(d.Host, strconv.Itoa(int(d.Port))),
		fallbacks:   strings.Join(d.Fallbacks, " "),
		scheme:      d.Scheme,
		datacenter:  d.Datacenter,
		datacenters: strings.Join(d.Followed(), " "),
		tokenFile:   d.TokenFile,
		consistency: d.Consistency,
		tls:         d.TLS,
	}}
}

// sameAgent reports whether both may be Consul at one address.
func (t target) sameAgent(o target) bool {
	return t.file == "" && o.file == "" && slices.ContainsFunc(t.consul.addresses(), func(at string) bool {
		return slices.Contains(o.consul.addresses(), at)
	})
}

// follows are the datacenters that are read where there are several, the mesh's own
// first.
func (t *consulTarget) follows() []string { return strings.Fields(t.datacenters) }

// has reports whether instances of a datacenter, as the last source had it, are read.
func (t *target) has(datacenter string) bool {
	return t.file != "" || datacenter == "" || datacenter == t.consul.datacenter || slices.Contains(t.consul.follows(), datacenter)
}

// addresses are those that may be asked, the first one first.
func (t *consulTarget) addresses() []string {
	return append([]string{t.address}, strings.Fields(t.fallbacks)...)
}

// client returns a client with so many connections, 0 for as many as it takes. The
// file names the address; a token alone may come from the environment.
func (t *consulTarget) client(lookupEnv func(string) (string, bool), connections int) (*consul.Client, error) {
	cfg := consul.Config{
		Address: t.address, Fallbacks: strings.Fields(t.fallbacks), Scheme: t.scheme, Datacenter: t.datacenter,
		TokenFile: t.tokenFile, TLS: consul.TLS(t.tls), MaxConnections: connections,
	}
	if cfg.TokenFile == "" {
		cfg.Token, _ = lookupEnv("CONSUL_HTTP_TOKEN")
		cfg.TokenFile, _ = lookupEnv("CONSUL_HTTP_TOKEN_FILE")
	}
	client, err := consul.New(cfg)
	if err != nil {
		return nil, fmt.Errorf("discovery.consul: %w", err)
	}
	return client, nil
}
