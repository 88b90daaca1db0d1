package control

import (
	"context"
	"fmt"
	"iter"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"datapunk.dev/controlplane/consul"
	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/watch"
	watchconsul "datapunk.dev/controlplane/watch/consul"
	"datapunk.dev/controlplane/watch/file"
	"datapunk.dev/controlplane/watch/memory"
)

// Catalogs keeps the catalog source running that the mesh file asks for. An
// edit that names another one starts it beside the last, whose catalogs are in
// force until the new one has its first whole catalog: an edit that names a
// place where nothing is does not blind the mesh. Only of one and the same agent
// two sources at a time would be too many, for it counts a client's connections:
// there the last catalog stays, and nothing follows it, until the new one is in.
type Catalogs struct {
	log       *slog.Logger
	override  string // consul or file:PATH: wins over discovery.method
	lookupEnv func(string) (string, bool)
	meant     func(revision string) bool // of a file: see [Revisions.Meant]
	publish   func(*watch.Catalog)

	answered func(time.Duration) // see ObserveAnswers
	sidecars *sidecars
	memory   *memory.Memory // nil: nothing is kept
	maxAge   time.Duration  // of what is kept

	started chan struct{} // next is one that does not run yet

	mu       sync.Mutex
	active   *source        // its catalogs are in force; nil before the first
	next     *source        // has no catalog yet; nil: the file asks for active
	kept     *memory.Kept   // of the disk, until a source has a catalog
	vouched  time.Time      // when the memory was last told
	given    *watch.Catalog // by active
	handover *handover      // nil: given is all that there is
	// reconnect is when proxies that live have found this replica or another one after
	// a start, as the mesh file says.
	reconnect time.Duration
	settled   time.Time // when given was last judged by it
	names     *watch.Names
	selection watch.Selection // of what Consul has
	last      *watch.Catalog  // published; nil before the first
}

// source is a source of the catalog, from when the file asks for it until
// another has taken over.
type source struct {
	reader
	target  target
	ctx     context.Context
	stop    context.CancelFunc
	close   func() // is called when it has ended
	running bool
}

// reader is what a source is made of.
type reader interface {
	Run(ctx context.Context) error
	Status() watch.Status
}

// consulSource is what reads Consul: a source, or one of each datacenter.
type consulSource interface {
	reader
	SetDemand(d watchconsul.Demand)
	SidecarsMoved()
	Unread(service, datacenter string) bool
	Unselected(service, datacenter string, at watch.Place) bool
	Removals() []watch.Removal
	Decide(ctx context.Context, id string, accept bool) (found bool, err error)
	Stats() watchconsul.Stats
}

// NewCatalogs returns a Catalogs that hands each new catalog to publish, one
// at a time. It must not call back. A file catalog whose revision is meant does
// not wait, whatever it removes.
func NewCatalogs(log *slog.Logger, override string, meant func(revision string) bool, publish func(*watch.Catalog)) *Catalogs {
	return &Catalogs{
		log: log, override: override, lookupEnv: os.LookupEnv, meant: meant, publish: publish,
		started: make(chan struct{}, 1), sidecars: newSidecars(), names: watch.NewNames(),
	}
}

// Remember has the catalogs kept, and the kept one used while its source has said
// nothing, and for as long as maxAge against a source that has less. It is called
// before [Catalogs.Follow].
func (c *Catalogs) Remember(m *memory.Memory, maxAge time.Duration) {
	kept, err := m.Load()
	if err != nil {
		c.log.Error(err.Error())
	}
	c.memory, c.maxAge, c.kept = m, maxAge, kept
}

// ObserveAnswers has Consul's answers timed. It is called before [Catalogs.Follow].
func (c *Catalogs) ObserveAnswers(observe func(time.Duration)) { c.answered = observe }

// Follow makes the source that m asks for the current one. An error says that
// it cannot work whatever its peer does, a certificate that is not there, say;
// then nothing has changed.
func (c *Catalogs) Follow(m *policy.Mesh) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.target(m)
	switch {
	case c.next != nil && c.next.target == t:
	case c.active != nil && c.active.target == t && c.active.ctx.Err() == nil:
		c.drop() // the file asks for what still runs
	default:
		next, err := c.open(t, m)
		if err != nil {
			return err
		}
		c.drop()
		c.next = next
		if c.active != nil && c.active.target.sameAgent(t) {
			c.active.stop()
		}
		select {
		case c.started <- struct{}{}:
		default: // Run is to look anyway
		}
	}
	c.reconnect = m.Discovery.Consul.Removals.Reconnect
	services := make(map[string]string)
	for _, name := range m.Names() {
		services[name] = m.Service(name).ConsulService
	}
	c.sidecars.setServices(services)
	c.choose(m, t)
	c.hand(c.names.SetFile(services))
	for peer := range c.peers() {
		peer.SetDemand(demand(m))
	}
	return nil
}

// choose takes what the mesh file selects of a source. It is no word on a file, which
// has what somebody wrote down.
func (c *Catalogs) choose(m *policy.Mesh, t target) {
	c.selection = watch.Selection{}
	if t.file == "" {
		c.selection = watch.Selection(m.Discovery.Consul.Select)
	}
	c.names.SetSelection(c.selection)
	if c.active == nil {
		return
	}
	if r, ok := c.active.reader.(*recalled); ok {
		c.given = r.kept.Catalog.Select(c.selection)
	}
	if c.handover != nil {
		c.handover.choose(c.selection)
	}
	if c.given != nil {
		c.settle(time.Now())
	}
}

// peers iterates over the sources that read Consul.
func (c *Catalogs) peers() iter.Seq[consulSource] {
	return func(yield func(consulSource) bool) {
		for _, s := range []*source{c.active, c.next} {
			if s == nil {
				continue
			}
			if p, ok := s.reader.(consulSource); ok && !yield(p) {
				return
			}
		}
	}
}

// SidecarsMoved is told which sidecars came and left. It is what the streams have
// to say of a removal that the catalog tells of.
func (c *Catalogs) SidecarsMoved(came, left []resource.Inbound) {
	c.sidecars.moved(came, left)
	c.mu.Lock()
	defer c.mu.Unlock()
	for peer := range c.peers() {
		peer.SidecarsMoved()
	}
	if c.handover != nil {
		c.settle(time.Now())
	}
}

// Remembered is how many services are known though their last instance went.
func (c *Catalogs) Remembered() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.names.Remembered()
}

// drop ends the source that has not taken over, if there is one.
func (c *Catalogs) drop() {
	if c.next != nil {
		c.next.stop()
		c.next = nil
	}
}

// Status returns the state of the source whose catalogs are in force, and what
// its successor waits for.
func (c *Catalogs) Status() watch.Status {
	c.mu.Lock()
	active, next := c.active, c.next
	kept, keptOf := "", 0
	if c.handover != nil {
		kept, keptOf = c.handover.said, c.handover.services
	}
	c.mu.Unlock()
	switch {
	case active == nil && next == nil:
		return watch.Status{Waiting: []string{"no catalog source has started"}}
	case active == nil:
		return next.Status()
	}
	status := active.Status()
	if kept != "" {
		status.Held = append(slices.Clone(status.Held), kept)
		status.HeldServices += keptOf
	}
	if next == nil {
		return status
	}
	status.Waiting = slices.Clone(status.Waiting)
	for _, w := range next.Status().Waiting {
		status.Waiting = append(status.Waiting, "the source that the mesh file asks for now: "+w)
	}
	return status
}

// Consul returns what the current source counted of its peer. It is false if
// that is no Consul.
func (c *Catalogs) Consul() (watchconsul.Stats, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for peer := range c.peers() {
		return peer.Stats(), true
	}
	return watchconsul.Stats{}, false
}

// forgetEvery is how often it is looked for services that had no instance for long.
const forgetEvery = 10 * time.Minute

// Run runs the sources until ctx ends, or until one fails that cannot go on.
func (c *Catalogs) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	forget := time.NewTicker(forgetEvery)
	defer forget.Stop()
	look := time.NewTicker(lookAtSources)
	defer look.Stop()
	if c.memory != nil {
		g.Go(func() error { c.memory.Run(ctx); return nil })
	}
	began := time.Now()
	for {
		select {
		case <-ctx.Done():
			c.vouch(time.Now())
			return g.Wait()
		case now := <-look.C:
			c.look(now, now.Sub(began))
			continue
		case now := <-forget.C:
			c.mu.Lock()
			c.hand(c.names.Forget(now))
			c.mu.Unlock()
			continue
		case <-c.started:
		}
		c.mu.Lock()
		next := c.next
		if next != nil && !next.running {
			next.running = true
			g.Go(func() error {
				defer context.AfterFunc(ctx, next.stop)()
				defer next.close()
				return next.Run(next.ctx)
			})
		}
		c.mu.Unlock()
	}
}

// take takes a catalog of a source. The first of a new source puts it in force
// and ends its predecessor; what one says that was overtaken is not heard.
func (c *Catalogs) take(s *source, catalog *watch.Catalog) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch s {
	case c.active:
	case c.next:
		if c.active != nil {
			c.active.stop()
			c.log.Info("the catalog comes from where the mesh file says now", "services", catalog.Len())
		}
		c.succeed(s)
		c.active, c.next = s, nil
	default:
		return
	}
	c.given = catalog
	c.settle(time.Now())
	c.vouchLocked(time.Now())
}

// settle takes what the current source gives, and what its predecessor had that is
// not believed to be gone.
func (c *Catalogs) settle(now time.Time) {
	catalog := c.given
	c.settled = now
	if c.handover != nil {
		if catalog = c.handover.settle(catalog, c.sidecars.of, c.meant, now); catalog == c.given {
			c.log.Info("the catalog lacks nothing any more that was there before its source took over")
			c.handover = nil
		}
	}
	// What a file does not have, somebody has taken out.
	c.hand(c.names.Take(catalog, c.active.target.file == "", now))
}

// hand publishes a catalog if it is another one than the last.
func (c *Catalogs) hand(catalog *watch.Catalog) {
	if c.active == nil || catalog == c.last {
		return
	}
	c.last = catalog
	c.publish(catalog)
}

// open makes a source. It does not run yet.
func (c *Catalogs) open(t target, m *policy.Mesh) (*source, error) {
	s := &source{target: t, close: func() {}}
	publish := func(catalog *watch.Catalog) { c.take(s, catalog) }
	if t.file != "" {
		meant := func(data []byte) bool { return c.meant(policy.Revision([]policy.File{{Data: data}})) }
		s.reader = file.New(t.file, c.log, meant, publish)
	} else {
		var err error
		if s.reader, s.close, err = c.openConsul(&t.consul, demand(m), publish); err != nil {
			return nil, err
		}
	}
	s.ctx, s.stop = context.WithCancel(context.Background())
	return s, nil
}

// connectionsToAgent is how many connections the sources of several datacenters share:
// an agent counts those of one client, wherever their requests go on to.
const connectionsToAgent = 150

// openConsul makes the source of a datacenter, or of several.
func (c *Catalogs) openConsul(t *consulTarget, demand watchconsul.Demand, publish func(*watch.Catalog)) (consulSource, func(), error) {
	var clients []*consul.Client
	closeAll := func() {
		for _, client := range clients {
			client.Close()
		}
	}
	names := t.follows()
	open := func(name string, publish func(*watch.Catalog)) (*watchconsul.Source, error) {
		of, connections := *t, 0
		if name != "" {
			of.datacenter, connections = name, max(16, connectionsToAgent/len(names))
		}
		client, err := of.client(c.lookupEnv, connections)
		if err != nil {
			return nil, err
		}
		clients = append(clients, client)
		source, err := watchconsul.New(client, watchconsul.Config{
			Consistency: t.consistency, Datacenter: name, Answered: c.answered, Sidecar: c.sidecars.of,
		}, demand, c.log, publish)
		if err != nil {
			return nil, fmt.Errorf("discovery.consul: %w", err)
		}
		return source, nil
	}
	var made consulSource
	var err error
	if len(names) == 0 {
		made, err = open("", publish)
	} else {
		made, err = watchconsul.NewDatacenters(c.log, names, c.remembers(time.Now()), open, publish)
	}
	if err != nil {
		closeAll()
		return nil, nil, err
	}
	return made, closeAll, nil
}

// remembers reports whether a source that takes over is judged by what was there before.
func (c *Catalogs) remembers(now time.Time) bool {
	return c.active != nil || c.kept != nil && now.Sub(c.kept.Known) < c.maxAge
}
