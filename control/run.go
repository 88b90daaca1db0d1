package control

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"datapunk.dev/controlplane/watch/memory"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"datapunk.dev/controlplane/journal"
	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/register"
	"datapunk.dev/controlplane/replica"
	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/sds"
	"datapunk.dev/controlplane/sds/identity"
	"datapunk.dev/controlplane/sds/join"
	"datapunk.dev/controlplane/sds/token"
	"datapunk.dev/controlplane/sidecar/api"
	"datapunk.dev/controlplane/translate"
	"datapunk.dev/controlplane/xds"
)

// Options are the process's own settings: what no mesh file says.
type Options struct {
	Log        *slog.Logger
	ClientLog  *slog.Logger  // of what clients cause, however often
	LogDropped func() uint64 // lines that the log has left out; nil: it leaves none out
	Metrics    prometheus.Registerer
	Reloaded   func() // told when the mesh file was read again as asked; nil: nobody asks

	Files         []string           // mesh files, merged left to right
	MeshOptions   policy.Options     // how they are read
	Catalog       string             // consul or file:PATH: wins over discovery.method
	DataDir       string             // of the authority, the token key and the mesh files that were in force
	XDSAddress    string             // where proxies connect, for those who look for it in the catalog; empty: on no network
	Plaintext     bool               // the xDS port speaks no TLS and takes no tokens
	ServerNames   []string           // by which clients without an Envoy dial the xDS port
	Quorum        int                // see [xds.Options]
	Streams       int                // how many xDS streams there may be
	ConnectionAge time.Duration      // at which proxies look for a replica again; 0: never
	ExpectRoot    *identity.RootHash // nil: any, and a new one where there is none
	MaxCatalogAge time.Duration      // of a catalog of the disk
	Leader        Leadership         // empty: LeaderSelf
	Joins         Joins              // what machines may join by, beside join tokens
}

// Joins is what machines may join by, beside join tokens.
type Joins struct {
	Consul bool               // Consul's ACL tokens
	Nomad  *join.NomadOptions // its workload identities; nil: not
}

// New opens the data directory, reads the mesh file to begin with and makes the
// rooms. Nothing runs yet. It waits for a data directory that another process
// has locked, until ctx ends.
func New(ctx context.Context, o Options) (*Plane, error) {
	p := &Plane{Options: o, revisions: NewRevisions(""), agreement: newAgreement(), journal: journal.New(), waved: make(chan struct{}, 1), started: time.Now().UTC().Truncate(time.Second)} // plaintext xDS has no data directory
	if !o.Plaintext {
		if err := sds.CheckDir(o.DataDir); err != nil {
			return nil, err
		}
		p.revisions = NewRevisions(o.DataDir)
	}
	mesh, err := p.firstMesh()
	if err != nil {
		return nil, err
	}
	p.mesh.Store(mesh)
	if err := p.openIdentity(ctx, mesh); err != nil {
		return nil, err
	}
	if err := p.accept(mesh); err != nil {
		return nil, err
	}
	p.loop = NewLoop(p.Log, p.publish, func(ctx context.Context) <-chan struct{} { return p.xds.Acked(ctx, nil) })
	p.loop.askGrowth(p.revisions.Meant, p.takeWord)
	p.loop.tryEdits(waves{
		acked: func(ctx context.Context, who func(string, resource.Profile) bool) <-chan struct{} {
			return p.xds.Acked(ctx, who)
		},
		proxies: func() []xds.ProxyStatus { return p.xds.Proxies() },
		leaves:  p.leaves, released: func(of resource.Profile) bool { return p.xds.Released(of) }, stopping: p.draining.Load,
		meant: p.revisions.Meant, told: func() {
			p.changedForPeers()
			select {
			case p.waved <- struct{}{}:
			default:
			}
		},
	})
	if p.Leader == LeaderConsul {
		p.loop.waves.others = func(revision string, seen time.Duration) editElsewhere {
			return editOfOthers(p.replicas.View(), revision, seen)
		}
	}
	p.leaving = newLeaving(p.Log, p.loop.SetCatalog)
	merged := register.NewMerged(p.leaving.SetCatalog)
	p.registrations = NewRegistrations(p.Log, p.Catalog, merged, p.XDSAddress, func() bool { return p.Readiness().Ready })
	if o.Leader == LeaderConsul {
		p.replicas = newReplicas(p.Log, p.Catalog, p.registrations.replica, p.member, p.seeReplicas, p.loop.look)
		var prover pinProver
		if p.tokens != nil {
			prover = p.tokens
		}
		p.pins = newSharedPin(p.replicas, prover, p.loop.look)
		p.loop.share(p.replicas.stages, p.pins.ready)
	}
	p.catalogs = NewCatalogs(p.Log, p.Catalog, p.takeWord, p.registrations.SetCatalog)
	if !p.Plaintext {
		p.catalogs.Remember(memory.New(p.DataDir, mesh.Name), p.MaxCatalogAge)
	}
	p.observe()
	xdsOptions := xds.Options{
		Logger: p.ClientLog, Metrics: p.Metrics, OnFleet: p.loop.SetFleet, OnInbound: p.catalogs.SidecarsMoved, OnPresence: p.present, OnNack: p.rejectedBy, Locate: p.locate, Quorum: p.Quorum,
		Limits: xds.Limits{Streams: p.Streams, ConnectionAge: p.ConnectionAge, CPU: usedCPU},
		Checks: xds.Checks{Specifier: p.appCheck, Reported: p.envoyReported},
	}
	if p.svids != nil {
		xdsOptions.Issuer = newIssuer(p.svids)
		xdsOptions.Authenticate = newAuthenticator(p.tokens, p.refused)
		xdsOptions.Joins = append([]string{api.MethodJoin, replica.MethodProxies}, xds.StatusMethods...)
		xdsOptions.Operator = p.operatorCalls
		p.roots = newRootRotation(p.Log, p.svids, p.loop.SetRoots, func(ctx context.Context) <-chan struct{} { return p.xds.Acked(ctx, nil) }, p.changedForPeers)
		p.loop.SetRoots(p.svids.Roots())
	}
	if !p.Plaintext {
		p.refusals = newRefusals(p.DataDir, mesh.Name)
		xdsOptions.OnRefusals = p.refusals.changed
	}
	if p.replicas != nil {
		changed := xdsOptions.OnRefusals
		xdsOptions.OnRefusals = func() {
			if changed != nil {
				changed()
			}
			p.replicas.Changed()
		}
	}
	p.xds = xds.New(xdsOptions)
	if p.refusals != nil {
		if err := p.refusals.recall(p.xds.Refusals, p.xds.Recall); err != nil {
			p.Log.Error(err.Error())
		}
		if n := len(p.xds.Quarantines()); n > 0 {
			p.Log.Warn("what proxies refused before the start stays in quarantine", "contents", n)
		}
	}
	p.Metrics.MustRegister(p)
	return p, nil
}

// publish hands what is served to the streams. s is what most of them have.
func (p *Plane) publish(s *translate.Snapshot, served xds.Snapshot) {
	p.xds.Publish(served)
	if p.roots != nil {
		p.roots.publishes(s.Input.Roots)
	}
	p.leaving.Published(s.Input.Catalog)
	p.agreement.observe(stateOf(s.Input.Mesh.Revision, s.Input.Catalog.Digest().String()), time.Now())
	p.changedForPeers()
}

// changedForPeers says that there is something else to tell the other replicas.
func (p *Plane) changedForPeers() {
	if p.replicas != nil {
		p.replicas.Changed()
	}
}

// takeWord reports whether somebody has said of a file catalog, or of what is held, that
// it is meant. The word is good for one time: who asks acts on it at once.
func (p *Plane) takeWord(revision string) bool {
	if !p.revisions.Meant(revision) {
		return false
	}
	if err := p.revisions.Used(revision); err != nil {
		p.Log.Error("the word of an operator could not be used up, and holds for the next time", "revision", revision, "err", err)
	}
	return true
}

// openIdentity opens the data directory. Plaintext xDS needs none.
func (p *Plane) openIdentity(ctx context.Context, mesh *policy.Mesh) error {
	if p.Plaintext {
		return nil
	}
	expected, err := expectedRoot(p.ExpectRoot, mesh)
	if err != nil {
		return err
	}
	if at, err := filepath.Abs(p.DataDir); err == nil && at != filepath.Clean(p.DataDir) {
		p.Log.Warn("the data directory is relative to where this process was started: name it whole with --data-dir", "data_dir", at)
	}
	ca, tokens, err := sds.OpenContext(ctx, p.Log, p.DataDir, mesh.MTLS.TrustDomain, filesOf(mesh.MTLS.CA), expected)
	if err != nil {
		return err
	}
	p.tokens, p.authority = tokens, mesh.MTLS.CA
	if p.provers, err = newProvers(p); err != nil {
		return err
	}
	p.svids, err = sds.NewManager(ca, sds.Options{
		Rotation: mesh.MTLS.CertRotation, TTL: mesh.MTLS.CertTTL, ServerNames: p.ServerNames, Log: p.ClientLog,
	})
	return err
}

// newProvers returns what finds out who may join, by what it is shown.
func newProvers(p *Plane) (map[api.Kind]prover, error) {
	provers := map[api.Kind]prover{api.JoinToken: join.NewTokens(p.DataDir)}
	if p.Joins.Consul {
		provers[api.ConsulToken] = newConsulProver(p.mesh.Load)
	}
	if p.Joins.Nomad != nil {
		nomad, err := join.NewNomad(*p.Joins.Nomad)
		if err != nil {
			return nil, err
		}
		provers[api.NomadToken] = nomad
	}
	return provers, nil
}

// ServerOptions returns those of the gRPC server of the xDS port.
func (p *Plane) ServerOptions() []grpc.ServerOption {
	options := append(p.xds.ServerOptions(), containCalls(p.ClientLog)...)
	if p.svids != nil {
		options = append(options, grpc.Creds(credentials.NewTLS(p.svids.ServerTLS())))
	}
	return options
}

// Register registers what the xDS port serves.
func (p *Plane) Register(s *grpc.Server) {
	p.xds.Register(s)
	if p.tokens != nil {
		token.RegisterRenewal(s, p.tokens, p.ClientLog)
		api.Register(s, newMachines(p, p.provers))
		replica.Serve(s, p.peerCalls, p.proxiesForPeers)
	}
}

// Start puts the first mesh file into force, and returns it.
func (p *Plane) Start() (*policy.Mesh, error) {
	mesh, err := p.followFirst(p.mesh.Load())
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	p.inForce = time.Now()
	p.mu.Unlock()
	if is := p.pinIs(); is != nil && p.pins != nil {
		p.pins.began(is)
	}
	p.loop.start(mesh)
	return mesh, nil
}

// Run runs the rooms until ctx ends, or until one fails that cannot go on. What
// comes from reload has the mesh file read again.
func (p *Plane) Run(ctx context.Context, reload <-chan os.Signal) error {
	first := p.mesh.Load()
	watcher := policy.NewWatcher(p.Files, p.MeshOptions, policy.WatcherOptions{
		Logger: p.Log, Reload: reload, Current: first, OnMesh: p.adopt, OnError: p.reject,
		OnHold: p.wait, OnAsked: p.Reloaded, Meant: p.revisions.Meant, InForce: p.insteadOfEdit,
		Check: p.accept, Removes: p.deselects,
	})
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return p.loop.Run(ctx) })
	g.Go(func() error { return p.catalogs.Run(ctx) })
	g.Go(func() error { p.registrations.Run(ctx); return nil })
	if p.replicas != nil {
		g.Go(func() error { p.replicas.Run(ctx); return nil })
		g.Go(func() error { p.spread(ctx); return nil })
		g.Go(func() error { p.followPins(ctx); return nil })
	}
	g.Go(func() error { return watcher.Run(ctx) })
	g.Go(func() error { p.followMesh(ctx, first); return nil })
	g.Go(func() error { return p.watchReturns(ctx) })
	if p.refusals != nil {
		g.Go(func() error { p.refusals.keeper.Run(ctx); return nil })
	}
	if p.svids != nil {
		g.Go(func() error { return p.svids.Run(ctx) })
		g.Go(func() error { p.roots.Run(ctx); return nil })
	}
	return g.Wait()
}

// Turns returns nil when the control loop has turned once more, or an error
// when ctx has ended. One that never does is stuck.
func (p *Plane) Turns(ctx context.Context) error { return p.loop.Turns(ctx) }

// Release gives up what tells other replicas that this one lives. It is called when
// all else has ended.
func (p *Plane) Release() {
	p.registrations.Release()
	if p.replicas != nil {
		p.replicas.Release()
	}
}
