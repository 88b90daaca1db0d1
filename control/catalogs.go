package control

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"

	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/watch"
	"datapunk.dev/controlplane/watch/consul"
	"datapunk.dev/controlplane/watch/file"
)

// Catalogs keeps the one catalog source running that the mesh file asks for.
// An edit that names another source (or another address of the same) starts
// that one; the last good catalog stays until the new source has its first.
type Catalogs struct {
	log       *slog.Logger
	override  string // consul or file:PATH: wins over discovery.method
	lookupEnv func(string) (string, bool)
	publish   func(*watch.Catalog)

	mesh chan *policy.Mesh

	mu      sync.Mutex
	current *watch.Catalog
	source  source
}

// source is a running source of the catalog.
type source interface {
	Run(ctx context.Context) error
	Status() watch.Status
}

// NewCatalogs returns a Catalogs that hands each new catalog to publish.
func NewCatalogs(log *slog.Logger, override string, publish func(*watch.Catalog)) *Catalogs {
	return &Catalogs{log: log, override: override, lookupEnv: os.LookupEnv, publish: publish, mesh: make(chan *policy.Mesh, 1)}
}

// Follow makes the source that m asks for the current one. Only one goroutine
// may call it.
func (c *Catalogs) Follow(m *policy.Mesh) {
	select {
	case <-c.mesh: // not taken yet, and overtaken
	default:
	}
	c.mesh <- m
}

// Status returns the state of the current source.
func (c *Catalogs) Status() watch.Status {
	c.mu.Lock()
	src := c.source
	c.mu.Unlock()
	if src == nil {
		return watch.Status{Waiting: []string{"no catalog source has started"}}
	}
	return src.Status()
}

// Consul returns what the current source counted of its peer. It is false if
// that is no Consul.
func (c *Catalogs) Consul() (consul.Stats, bool) {
	c.mu.Lock()
	src, ok := c.source.(*consul.Source)
	c.mu.Unlock()
	if !ok {
		return consul.Stats{}, false
	}
	return src.Stats(), true
}

// Run runs the sources until ctx ends. A source that cannot start is an error
// only for the first mesh; later the old one goes on.
func (c *Catalogs) Run(ctx context.Context) error {
	var (
		running target
		stop    = func() {}
		failed  = make(chan error, 1)
	)
	defer func() { stop() }()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-failed:
			return err
		case m := <-c.mesh:
			next := c.target(m)
			if next == running {
				if src, ok := c.source.(*consul.Source); ok {
					src.SetDemand(demand(m))
				}
				continue
			}
			src, err := c.start(next, m)
			if err != nil {
				if c.source == nil {
					return err
				}
				c.log.Error("the new catalog source cannot start: the last one goes on", "err", err)
				continue
			}
			stop()
			running, stop = next, c.run(ctx, src, failed)
			c.mu.Lock()
			c.source = src
			c.mu.Unlock()
		}
	}
}

// run runs src in a goroutine and returns what stops it and waits.
func (c *Catalogs) run(ctx context.Context, src source, failed chan<- error) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := src.Run(ctx); err != nil && ctx.Err() == nil {
			failed <- err
		}
	}()
	return func() { cancel(); <-done }
}

// target is what tells one source from another.
type target struct {
	file   string
	consul consulTarget
}

type consulTarget struct {
	address, scheme, datacenter, tokenFile, consistency string
	tls                                                 policy.ConsulTLS
}

func (c *Catalogs) target(m *policy.Mesh) target {
	if path, ok := strings.CutPrefix(c.override, "file:"); ok {
		return target{file: path}
	}
	if c.override == "" && m.Discovery.Method == "file" {
		return target{file: m.Discovery.File}
	}
	d := m.Discovery.Consul
	return target{consul: consulTarget{
		address:     net.JoinHostPort(d.Host, strconv.Itoa(int(d.Port))),
		scheme:      d.Scheme,
		datacenter:  d.Datacenter,
		tokenFile:   d.TokenFile,
		consistency: d.Consistency,
		tls:         d.TLS,
	}}
}

func (c *Catalogs) start(t target, m *policy.Mesh) (source, error) {
	c.mu.Lock()
	current := c.current
	c.mu.Unlock()
	publish := func(cat *watch.Catalog) {
		c.mu.Lock()
		c.current = cat
		c.mu.Unlock()
		c.publish(cat)
	}
	if t.file != "" {
		return file.New(t.file, c.log, publish), nil
	}
	cfg := consul.Config{
		Address: t.consul.address, Scheme: t.consul.scheme, Datacenter: t.consul.datacenter,
		TokenFile: t.consul.tokenFile, TLS: consul.TLS(t.consul.tls), Consistency: t.consul.consistency, Initial: current,
	}
	// The file names the address; a token alone may come from the environment.
	if cfg.TokenFile == "" {
		cfg.Token, _ = c.lookupEnv("CONSUL_HTTP_TOKEN")
		cfg.TokenFile, _ = c.lookupEnv("CONSUL_HTTP_TOKEN_FILE")
	}
	src, err := consul.New(cfg, demand(m), c.log, publish)
	if err != nil {
		return nil, fmt.Errorf("discovery.consul: %w", err)
	}
	return src, nil
}

// demand is which services the mesh needs to know: by name those that the file
// names, and all that are in the mesh. Only where plaintext peers are served
// too is every service of the catalog one.
func demand(m *policy.Mesh) consul.Demand {
	d := consul.Demand{MeshOnly: m.MTLS.Enabled && m.MTLS.Mode == policy.Strict}
	for _, name := range m.Names() {
		d.Services = append(d.Services, m.Service(name).ConsulService)
	}
	if m.Tracing.Enabled && m.Tracing.Endpoint == "" {
		d.Services = append(d.Services, m.Tracing.Service)
	}
	return d
}
