package main

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"datapunk.dev/controlplane/admin"
	"datapunk.dev/controlplane/control"
	"datapunk.dev/controlplane/loglimit"
	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/sds"
	"datapunk.dev/controlplane/xds"
)

// drainTime bounds how long streams and admin requests may take to end.
const drainTime = 5 * time.Second

func newServeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "serve -f FILE [-f FILE…]",
		Short: "Serve the fleet",
		Long:  "serve watches the catalog and the mesh file, and serves Envoys over ADS until SIGTERM or SIGINT.\nSIGHUP reads the mesh file again. Each flag may also be set as CONTROLPLANE_<FLAG>, or in the file\nof --settings.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := loadSettings(cmd)
			if err != nil {
				return err
			}
			log, out, err := openLog(cmd.ErrOrStderr(), s)
			if err != nil {
				return err
			}
			defer out.Close()
			err = serve(cmd.Context(), log, out.Dropped, s)
			var problems policy.Problems
			if !errors.As(err, &problems) {
				return err
			}
			for _, p := range problems {
				p.Format(out)
			}
			return shownError{err}
		},
	}
	settingsFlags(cmd)
	return cmd
}

// serve runs until ctx ends, or until something that cannot go on fails.
// logDropped counts the lines that the log has left out.
func serve(ctx context.Context, log *slog.Logger, logDropped func() uint64, s *settings) error {
	opts := policy.Options{Environment: s.Environment, LookupEnv: os.LookupEnv}
	p := &plane{
		log: log, clientLog: slog.New(loglimit.New(log.Handler())), logDropped: logDropped, settings: s,
		warned: make(map[warning]bool), revisions: control.NewRevisions(s.keepDir()),
	}
	mesh, err := p.firstMesh(opts)
	if err != nil {
		return err
	}
	p.mesh.Store(mesh)
	switch err := p.openIdentity(ctx, mesh); {
	case errors.Is(err, context.Canceled):
		return nil // SIGTERM before the first answer is an end like any other
	case err != nil:
		return err
	}
	if err := control.Accept(mesh, p.trustDomain(), s.Plaintext); err != nil {
		return err
	}
	return p.run(ctx, opts, mesh)
}

// openIdentity opens the data directory. Plaintext xDS needs none.
func (p *plane) openIdentity(ctx context.Context, mesh *policy.Mesh) error {
	if p.settings.Plaintext {
		return nil
	}
	ca, tokens, err := sds.OpenContext(ctx, p.log, p.settings.DataDir, mesh.MTLS.TrustDomain)
	if err != nil {
		return err
	}
	p.tokens = tokens
	p.svids, err = sds.NewManager(ca, sds.Options{
		Rotation: mesh.MTLS.CertRotation, TTL: mesh.MTLS.CertTTL, ServerNames: p.settings.serverNames(), Log: p.clientLog,
	})
	return err
}

func (p *plane) run(ctx context.Context, opts policy.Options, mesh *policy.Mesh) error {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))

	p.loop = control.NewLoop(p.log, func(s *snapshot) { p.xds.Publish(s) }, func(ctx context.Context) <-chan struct{} { return p.xds.Acked(ctx, nil) })
	p.catalogs = control.NewCatalogs(p.log, p.settings.Catalog, p.revisions.Meant, p.loop.SetCatalog)
	xdsOptions := xds.Options{Logger: p.clientLog, Metrics: registry, OnFleet: p.loop.SetFleet, Locate: p.locate, Quorum: p.settings.Quorum,
		Limits: xds.Limits{Streams: 2 * p.settings.MaxConnections}}
	creds := containCalls(p.clientLog)
	if p.svids != nil {
		xdsOptions.Issuer = control.Issuer(p.svids)
		xdsOptions.Authenticate = control.Authenticator(p.tokens, p.refused)
		creds = append(creds, grpc.Creds(credentials.NewTLS(p.svids.ServerTLS())))
		p.loop.SetRoots(p.svids.Roots())
	}
	p.xds = xds.New(xdsOptions)
	registry.MustRegister(p)
	server := grpc.NewServer(append(p.xds.ServerOptions(), creds...)...)
	p.xds.Register(server)
	if p.tokens != nil {
		sds.RegisterRenewal(server, p.tokens, p.clientLog)
	}

	if err := p.listen(); err != nil {
		return err
	}
	adminServer := &http.Server{
		Handler: admin.Handler(p.clientLog, admin.Sources{
			Readiness: p.readiness, Proxies: p.xds.Proxies, Registered: p.registered, Scrape: p.scrape, Metrics: registry,
		}),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      time.Minute,
		IdleTimeout:       adminIdleTime,
		MaxHeaderBytes:    64 << 10,
		ConnState:         workOn,
		ErrorLog:          slog.NewLogLogger(p.clientLog.Handler(), slog.LevelDebug),
	}

	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	mesh, err := p.followFirst(opts, mesh)
	if err != nil {
		_, _ = p.xdsListener.Close(), p.adminListener.Close()
		return err
	}
	watcher := policy.NewWatcher(p.settings.Files, opts, policy.WatcherOptions{
		Logger: p.log, Reload: hangup, Current: mesh, OnMesh: p.adopt, OnError: p.reject,
		OnHold: p.wait, Meant: p.revisions.Meant,
		Check: func(m *policy.Mesh) error { return control.Accept(m, p.trustDomain(), p.settings.Plaintext) },
	})
	p.log.Info("serving", "xds", p.xdsListener.Addr().String(), "admin", p.adminListener.Addr().String(),
		"mesh", mesh.Name, "trust_domain", mesh.MTLS.TrustDomain, "mtls", mesh.MTLS.Enabled, "plaintext", p.settings.Plaintext)

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return p.loop.Run(ctx) })
	g.Go(func() error { return p.catalogs.Run(ctx) })
	g.Go(func() error { return watcher.Run(ctx) })
	if p.svids != nil {
		g.Go(func() error { return p.svids.Run(ctx) })
	}
	g.Go(func() error { return ignoreClosed(server.Serve(p.xdsListener)) })
	g.Go(func() error { return ignoreClosed(adminServer.Serve(p.adminListener)) })
	g.Go(func() error {
		<-ctx.Done()
		p.log.Info("draining")
		p.drain(server, adminServer)
		return nil
	})
	return g.Wait()
}

// drain ends the streams, so that the Envoys look for another control plane,
// and then the servers.
func (p *plane) drain(server *grpc.Server, adminServer *http.Server) {
	p.xds.Drain()
	stopped := make(chan struct{})
	go func() { server.GracefulStop(); close(stopped) }()
	select {
	case <-stopped:
	case <-time.After(drainTime):
		server.Stop()
	}
	ctx, cancel := context.WithTimeout(context.Background(), drainTime)
	defer cancel()
	if err := adminServer.Shutdown(ctx); err != nil {
		_ = adminServer.Close()
	}
}

func ignoreClosed(err error) error {
	if errors.Is(err, grpc.ErrServerStopped) || errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}
