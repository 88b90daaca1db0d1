package control

import (
	"context"
	"log/slog"
	"os"
	"time"

	"datapunk.dev/controlplane/watch/memory"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/register"
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
	ExpectRoot    *identity.RootHash // nil: any, and a new one where there is none
	MaxCatalogAge time.Duration      // of a catalog of the disk
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
	p := &Plane{Options: o, revisions: NewRevisions("")} // plaintext xDS has no data directory
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
	if err := accept(mesh, p.trustDomain(), p.Plaintext); err != nil {
		return nil, err
	}
	p.loop = NewLoop(p.Log, p.publish, func(ctx context.Context) <-chan struct{} { return p.xds.Acked(ctx, nil) })
	p.leaving = newLeaving(p.Log, p.loop.SetCatalog)
	merged := register.NewMerged(p.leaving.SetCatalog)
	p.registrations = NewRegistrations(p.Log, p.Catalog, merged, p.XDSAddress, func() bool { return p.Readiness().Ready })
	p.catalogs = NewCatalogs(p.Log, p.Catalog, p.catalogIsMeant, p.registrations.SetCatalog)
	if !p.Plaintext {
		p.catalogs.Remember(memory.New(p.DataDir, mesh.Name), p.MaxCatalogAge)
	}
	p.observe()
	xdsOptions := xds.Options{
		Logger: p.ClientLog, Metrics: p.Metrics, OnFleet: p.loop.SetFleet, OnInbound: p.catalogs.SidecarsMoved, OnPresence: p.registrations.Present, Locate: p.locate, Quorum: p.Quorum,
		Limits: xds.Limits{Streams: p.Streams},
	}
	if p.svids != nil {
		xdsOptions.Issuer = newIssuer(p.svids)
		xdsOptions.Authenticate = newAuthenticator(p.tokens, p.refused)
		xdsOptions.Joins = api.MethodJoin
		p.loop.SetRoots(p.svids.Roots())
	}
	p.xds = xds.New(xdsOptions)
	p.Metrics.MustRegister(p)
	return p, nil
}

// publish hands a snapshot to the streams.
func (p *Plane) publish(s *translate.Snapshot) {
	p.xds.Publish(s)
	p.leaving.Published(s.Input.Catalog)
}

// catalogIsMeant reports whether somebody has said of a file catalog that it is
// meant. The word is good for one time: the source takes such a catalog at once.
func (p *Plane) catalogIsMeant(revision string) bool {
	if !p.revisions.Meant(revision) {
		return false
	}
	if err := p.revisions.Used(revision); err != nil {
		p.Log.Error("the word on a catalog could not be used up, and holds for the next one like it", "revision", revision, "err", err)
	}
	return true
}

// openIdentity opens the data directory. Plaintext xDS needs none.
func (p *Plane) openIdentity(ctx context.Context, mesh *policy.Mesh) error {
	if p.Plaintext {
		return nil
	}
	ca, tokens, err := sds.OpenContext(ctx, p.Log, p.DataDir, mesh.MTLS.TrustDomain, p.ExpectRoot)
	if err != nil {
		return err
	}
	p.tokens = tokens
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
	}
}

// Start puts the first mesh file into force, and returns it.
func (p *Plane) Start() (*policy.Mesh, error) {
	mesh, err := p.followFirst(p.mesh.Load())
	if err != nil {
		return nil, err
	}
	p.loop.SetMesh(mesh)
	return mesh, nil
}

// Run runs the rooms until ctx ends, or until one fails that cannot go on. What
// comes from reload has the mesh file read again.
func (p *Plane) Run(ctx context.Context, reload <-chan os.Signal) error {
	watcher := policy.NewWatcher(p.Files, p.MeshOptions, policy.WatcherOptions{
		Logger: p.Log, Reload: reload, Current: p.mesh.Load(), OnMesh: p.adopt, OnError: p.reject,
		OnHold: p.wait, OnAsked: p.Reloaded, Meant: p.revisions.Meant,
		Check: func(m *policy.Mesh) error { return accept(m, p.trustDomain(), p.Plaintext) },
	})
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return p.loop.Run(ctx) })
	g.Go(func() error { return p.catalogs.Run(ctx) })
	g.Go(func() error { p.registrations.Run(ctx); return nil })
	g.Go(func() error { return watcher.Run(ctx) })
	g.Go(func() error { return p.watchReturns(ctx) })
	if p.svids != nil {
		g.Go(func() error { return p.svids.Run(ctx) })
	}
	return g.Wait()
}

// Turns returns nil when the control loop has turned once more, or an error
// when ctx has ended. One that never does is stuck.
func (p *Plane) Turns(ctx context.Context) error { return p.loop.Turns(ctx) }

// Proxies returns the state of each proxy.
func (p *Plane) Proxies() []xds.ProxyStatus { return p.xds.Proxies() }

// Release gives up what tells other replicas that this one lives. It is called when
// all else has ended.
func (p *Plane) Release() { p.registrations.Release() }

// Drain ends the streams, so that the Envoys look for another control plane.
func (p *Plane) Drain() { p.xds.Drain() }
