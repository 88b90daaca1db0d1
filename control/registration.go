package control

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/register"
	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/watch"
	"datapunk.dev/controlplane/xds"
)

// consulConnections is how many connections registrations take of those that an
// agent lets one client have.
const consulConnections = 16

// Registrations keeps the catalog in step with the proxies that are connected, as the
// mesh file in force says: in Consul, beside a file, or not at all.
type Registrations struct {
	log       *slog.Logger
	override  string // as that of Catalogs
	lookupEnv func(string) (string, bool)
	replica   string
	merged    *register.Merged
	address   string      // of the xDS port
	ready     func() bool // whether this replica serves proxies
	started   chan struct{}

	mu      sync.Mutex
	mesh    *policy.Mesh
	proxies map[string]xds.Presence // by node.id
	current *registration           // nil: nothing is registered
}

// registration is a registrar for one target.
type registration struct {
	*register.Registrar
	work   *worker
	target target
	mesh   string // its name: the entries bear it
}

// NewRegistrations returns one that adds what is registered beside a file to merged.
// Address is where proxies connect to this replica, and ready whether it serves them.
func NewRegistrations(log *slog.Logger, override string, merged *register.Merged, address string, ready func() bool) *Registrations {
	return &Registrations{
		log: log, override: override, address: address, ready: ready, lookupEnv: os.LookupEnv, replica: replicaName(), merged: merged,
		started: make(chan struct{}, 1), proxies: make(map[string]xds.Presence),
	}
}

// replicaName is one that no other replica ever has: this machine's, and a part that
// is drawn anew at each start.
func replicaName() string {
	host, _ := os.Hostname()
	host = strings.Map(func(r rune) rune {
		if 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '-' {
			return r
		}
		return '-'
	}, host)
	var drawn [4]byte
	_, _ = rand.Read(drawn[:])
	return cmp.Or(host[:min(len(host), 40)], "replica") + "-" + hex.EncodeToString(drawn[:])
}

// SetCatalog takes a newer catalog on its way to the loop.
func (r *Registrations) SetCatalog(c *watch.Catalog) {
	names := r.merged.SetCatalog(c)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.current == nil {
		return
	}
	changed := make(map[string]*watch.Service, len(names))
	for _, name := range names {
		changed[name] = c.Service(name)
	}
	r.current.Changed(changed)
}

// Present is told of proxies that have their listeners, and of those that are gone.
func (r *Registrations) Present(p xds.Presence, connected bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !connected {
		delete(r.proxies, p.Node)
		if r.current != nil {
			r.current.Gone(p.Node)
		}
		return
	}
	r.proxies[p.Node] = p
	r.registerLocked(p)
}

func (r *Registrations) registerLocked(p xds.Presence) {
	if r.current == nil || r.mesh == nil {
		return
	}
	if proxy, why := registrable(p, r.mesh); why == "" {
		r.current.Connected(proxy)
	}
}

// Leave takes the instance of a proxy out of the rotation, since it is about to end,
// and removes it once its stream has ended; if it is the last of its service it does
// both only then. It is false if nothing is registered for it.
func (r *Registrations) Leave(node string, last bool) bool {
	r.mu.Lock()
	current := r.current
	r.mu.Unlock()
	return current != nil && current.Leave(node, last)
}

// registrable returns what is to be registered for a proxy, or why nothing is.
func registrable(p xds.Presence, m *policy.Mesh) (register.Proxy, string) {
	address, _ := netip.ParseAddr(p.Profile.Address)
	switch {
	case !p.Proved:
		return register.Proxy{}, "it has not proved who it is: the xDS port takes no tokens"
	case p.Profile.MeshPort == 0 || p.Profile.AppPort == 0:
		return register.Proxy{}, "it takes no calls: its metadata has no app_port or no mesh_port"
	case address.IsMulticast():
		return register.Proxy{}, "nobody can call the address in its metadata"
	case address.IsValid() && !address.IsUnspecified():
	case !p.From.IsValid() || p.From.IsLoopback():
		return register.Proxy{}, "its metadata has no address, and its connection comes from this machine"
	default:
		address = p.From
	}
	return register.Proxy{
		Node: p.Node, Service: m.Service(p.Profile.Service).ConsulService, Address: address.WithZone("").Unmap(),
		Port: p.Profile.AppPort, MeshPort: p.Profile.MeshPort, Version: p.Version, Zone: p.Profile.Zone,
		Tags: p.Tags, Meta: p.Meta, Since: p.Since, Checked: checked(p.Checks, m.Service(p.Profile.Service).AppCheck),
	}, ""
}

// Follow registers as m says. An error says that it cannot work whatever Consul does;
// then nothing has changed.
func (r *Registrations) Follow(m *policy.Mesh) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := targetOf(r.override, m)
	wanted := m.Discovery.Register
	if t.file == "" {
		wanted = m.Discovery.Consul.Register.Enabled
	}
	d := m.Discovery.Consul
	times := register.Times{Interval: d.RegisterInterval, After: d.DeregisterCriticalServiceAfter}
	switch {
	case !wanted:
		r.mesh = m
		if r.current != nil {
			r.log.Warn("nothing is registered any more: what is in the catalog stays as it is, and nobody looks after it")
			r.endLocked()
		}
		r.merged.Enable(false)
		return nil
	case r.current != nil && r.current.target == t && r.current.mesh == m.Name:
		r.current.SetTimes(times)
	default:
		next := &registration{target: t, mesh: m.Name}
		disconnect := func() {}
		if t.file == "" {
			client, err := t.consul.client(r.lookupEnv, consulConnections)
			if err != nil {
				return err
			}
			disconnect = client.Close
			next.Registrar = register.NewConsul(client, m.Name, r.replica, times, r.log)
		} else {
			next.Registrar = register.NewLocal(r.merged, r.replica, times, r.log)
		}
		next.work = newWorker(func(ctx context.Context) { next.Run(ctx) }, func() {
			next.Release(context.Background())
			disconnect()
		})
		r.endLocked()
		r.merged.Enable(t.file != "")
		r.current = next
		select {
		case r.started <- struct{}{}:
		default: // Run is to look anyway
		}
	}
	r.mesh = m
	for _, node := range slices.Sorted(maps.Keys(r.proxies)) {
		r.registerLocked(r.proxies[node]) // its service may have another name in the catalog
	}
	return nil
}

// endLocked ends the current registrar, if there is one.
func (r *Registrations) endLocked() {
	if old := r.current; old != nil {
		r.current = nil
		old.work.end()
	}
}

// Run runs what the mesh file asks for until ctx ends.
func (r *Registrations) Run(ctx context.Context) {
	var running sync.WaitGroup
	defer running.Wait()
	look := time.NewTicker(lookAtSelf)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-look.C:
			r.keepOwn()
			continue
		case <-r.started:
		}
		r.mu.Lock()
		if r.current != nil {
			r.current.work.begin(ctx, &running)
		}
		r.mu.Unlock()
	}
}

// lookAtSelf is how often the control plane looks whether its own entry is right.
const lookAtSelf = time.Second

// keepOwn has that registered which has no stream: what the mesh file names, and this
// replica itself.
func (r *Registrations) keepOwn() {
	ready := r.ready()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.current == nil || r.current.target.file != "" {
		return
	}
	var own []register.Instance
	if r.mesh.Discovery.Consul.Register.ControlPlane {
		if host, port, ok := ownAddress(r.address, r.current.target.consul.address); ok {
			own = append(own, register.Instance{ID: r.replica, Service: resource.ControlPlane, Address: host, Port: port, Health: register.Critical})
			if ready {
				own[0].Health = register.Passing
			}
		}
	}
	var shared []register.Instance
	for _, s := range r.mesh.Discovery.Consul.Register.Services {
		i := register.Instance{ID: s.ID, Service: s.Name, Address: s.Address, Port: s.Port, Tags: s.Tags, Meta: s.Meta, Health: register.Passing}
		if c := s.Check; c != nil {
			i.ByAgent = c.By == "agent"
			i.Check = &register.Check{HTTP: c.HTTP, TCP: c.TCP, GRPC: c.GRPC, Interval: c.Interval, Timeout: c.Timeout}
		}
		shared = append(shared, i)
	}
	r.current.Keep(own, shared)
}

// ownAddress is where others reach a port that listens at address: where it listens
// on every address, the one by which Consul is reached.
func ownAddress(address, consul string) (string, uint16, bool) {
	host, text, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0, false // a Unix socket
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil || port == 0 {
		return "", 0, false
	}
	if ip, err := netip.ParseAddr(host); host != "" && (err != nil || !ip.IsUnspecified()) {
		return host, uint16(port), true
	}
	conn, err := net.Dial("udp", consul) // sends nothing
	if err != nil {
		return "", 0, false
	}
	defer func() { _ = conn.Close() }()
	local, err := netip.ParseAddrPort(conn.LocalAddr().String())
	return local.Addr().Unmap().String(), uint16(port), err == nil
}

// Release gives up what says that this replica lives: the last that it does.
func (r *Registrations) Release() {
	r.mu.Lock()
	current := r.current
	r.current = nil
	r.mu.Unlock()
	if current != nil {
		current.work.finish()
	}
}
