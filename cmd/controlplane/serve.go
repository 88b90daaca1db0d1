package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"datapunk.dev/controlplane/admin"
	"datapunk.dev/controlplane/admin/api"
	"datapunk.dev/controlplane/control"
	"datapunk.dev/controlplane/listen"
	"datapunk.dev/controlplane/loglimit"
	"datapunk.dev/controlplane/policy"
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
			return shown(out, serve(cmd.Context(), log, out.Dropped, s))
		},
	}
	settingsFlags(cmd)
	return cmd
}

// serve runs until ctx ends, or until something that cannot go on fails.
// logDropped counts the lines that the log has left out.
func serve(ctx context.Context, log *slog.Logger, logDropped func() uint64, s *settings) error {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	clientLog := slog.New(loglimit.New(log.Handler()))
	var systemd *supervised
	p, err := control.New(ctx, control.Options{
		Reloaded: func() { systemd.reloaded() },
		Log:      log, ClientLog: clientLog, LogDropped: logDropped, Metrics: registry,
		Files: s.Files, MeshOptions: policy.Options{Environment: s.Environment, LookupEnv: os.LookupEnv}, Catalog: s.Catalog,
		DataDir: s.DataDir, XDSAddress: s.XDSAddress, Plaintext: s.Plaintext, ServerNames: s.serverNames(), Quorum: s.Quorum,
		Streams: 2 * s.MaxConnections, Joins: s.joins(), MaxCatalogAge: s.MaxCatalogAge, ExpectRoot: s.expectedRoot(), Leader: control.Leadership(s.Leader), ConnectionAge: s.ConnectionAge,
	})
	switch {
	case errors.Is(err, context.Canceled):
		return nil // SIGTERM before the first answer is an end like any other
	case err != nil:
		return err
	}
	server := grpc.NewServer(p.ServerOptions()...)
	p.Register(server)

	xdsListener, adminListener, err := listenBoth(log, clientLog, s)
	if err != nil {
		return err
	}
	ports := map[string]*listen.Listener{"xds": xdsListener, "admin": adminListener}
	registry.MustRegister(listen.Metrics(ports))
	targets := admin.NewTargets(p.Registered, func() admin.Scrape { return admin.Scrape(p.Scrape()) })
	adminServer := &http.Server{
		Handler: admin.Handler(clientLog, admin.Sources{
			Readiness: func() admin.Readiness {
				r := p.Readiness()
				r.Problems = append(r.Problems, portProblems(ports, time.Now())...)
				return admin.Readiness(r)
			},
			Fleet: func(ctx context.Context) (admin.Fleet, error) { return fleetOf(p.Fleet(ctx)) },
			Status: func() api.Status {
				is := p.Status()
				is.Version = buildVersion()
				return is
			},
			Services:      p.Services,
			Resources:     p.Resources,
			Why:           p.Why,
			Describe:      p.Description,
			Certificates:  p.Certificates,
			Rotate:        p.Rotate,
			Events:        p.Events,
			Revisions:     p.Revisions,
			Revision:      p.Revision,
			Diff:          p.Diff,
			Pin:           p.Pin,
			Release:       p.ReleasePin,
			Plan:          p.Plan,
			Findings:      p.Findings,
			Checks:        func(ctx context.Context) api.Checks { return withPorts(p.Checks(ctx), portProblems(ports, time.Now())) },
			Targets:       targets,
			Replicas:      func() api.Replicas { return replicasOf(p.Replicas()) },
			Registrations: func() api.Registrations { return registrationsOf(p.Registrations()) },
			Metrics:       registry,
			Listener:      adminListener.Addr(),
			Removals:      func() api.Removals { return removalsOf(p.Removals()) },
			DecideRemoval: p.DecideRemoval,
			Roots:         func() api.Roots { return rootsOf(p.Roots()) },
			StepRoot:      func(ctx context.Context, step string) error { return p.StepRoot(ctx, control.RootStep(step)) },
			Authenticate:  p.Operator,
			Acted:         p.Acted,
		}),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      time.Minute,
		IdleTimeout:       adminIdleTime,
		MaxHeaderBytes:    64 << 10,
		ConnState:         workOn,
		ErrorLog:          slog.NewLogLogger(clientLog.Handler(), slog.LevelDebug),
	}

	if s.AdminTLS {
		adminServer.TLSConfig = p.AdminTLS()
	}

	systemd = supervisor(log, p)
	hangup, reload := make(chan os.Signal, 1), make(chan os.Signal)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	mesh, err := p.Start()
	if err != nil {
		_, _ = xdsListener.Close(), adminListener.Close()
		return err
	}
	if !s.Plaintext {
		if err := targets.Keep(s.DataDir, mesh.Name); err != nil {
			log.Error(err.Error())
		}
		registry.MustRegister(targets.Collector())
	}
	log.Info("serving", "xds", xdsListener.Addr().String(), "admin", adminListener.Addr().String(),
		"mesh", mesh.Name, "trust_domain", mesh.MTLS.TrustDomain, "mtls", mesh.MTLS.Enabled, "plaintext", s.Plaintext)

	g, ctx := errgroup.WithContext(ctx)
	// Until the fleet is drained the rest goes on: the other replicas are to hear of it.
	drained, stopRunning := context.WithCancel(context.WithoutCancel(ctx))
	defer stopRunning()
	g.Go(func() error { return p.Run(drained, reload) })
	g.Go(func() error { targets.Run(ctx); return nil })
	g.Go(func() error { systemd.reload(ctx, hangup, reload); return nil })
	g.Go(func() error { systemd.run(ctx); return nil })
	g.Go(func() error { return ignoreClosed(server.Serve(xdsListener)) })
	g.Go(func() error { return ignoreClosed(serveAdmin(adminServer, adminListener, s.AdminTLS)) })
	g.Go(func() error {
		<-ctx.Done()
		log.Info("draining")
		systemd.stopping()
		p.Drain()
		stopRunning()
		stop(server, adminServer)
		return nil
	})
	err = g.Wait()
	p.Release()
	return err
}

// withPorts adds whether the ports take connections.
func withPorts(is api.Checks, problems []string) api.Checks {
	c := api.Check{Name: "ports", Result: api.OK, Message: "they take connections"}
	if len(problems) > 0 {
		c = api.Check{Name: "ports", Result: api.Failed, Message: strings.Join(problems, "; "), Hint: "raise the limit of open files (LimitNOFILE)", Page: "docs/operations.md#running"}
	}
	is.Checks = append(is.Checks, c)
	return is
}

// serveAdmin serves the admin address.
func serveAdmin(server *http.Server, l net.Listener, secure bool) error {
	if secure {
		return server.ServeTLS(l, "", "") // the certificate is that of its TLSConfig
	}
	return server.Serve(l)
}

// stop ends the servers, and does not wait for ever for what they are at.
func stop(server *grpc.Server, adminServer *http.Server) {
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
