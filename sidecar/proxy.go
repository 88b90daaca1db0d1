package sidecar

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"datapunk.dev/controlplane/atomicfile"
	"datapunk.dev/controlplane/sds/identity"
	"datapunk.dev/controlplane/sidecar/api"
)

// Options are what an operator says of a proxy. What is left empty is found out
// or chosen, and kept.
type Options struct {
	Service string
	NodeID  string
	AppPort uint16
	Ports   Ports

	Address               string
	Region, Zone, SubZone string
	Version               string
	Tags                  []string
	Meta                  map[string]string

	// Control planes, HOST:PORT or unix:PATH, and the root that they are known
	// by: in a file, or by its hash ([identity.RootHash]).
	XDSAddresses   []string
	CAFile, CAHash string
	// What the machine joins by, in a file that is read each time. It is not
	// needed once it has joined, until its token has expired.
	JoinFile string
	JoinKind api.Kind

	StateDir   string
	RuntimeDir string // of Envoy's admin socket; empty: StateDir
	Envoy      string // its path; empty: looked for in PATH
	EnvoyLevel string // of its log
	Workers    int    // its worker threads; 0: as many as cores
	AnyVersion bool   // of Envoy will do
	// DrainTime bounds how long requests under way may take when the proxy leaves.
	DrainTime time.Duration

	Stdout *os.File // Envoy's own: its access logs
	Log    *slog.Logger
}

const (
	callTime  = 10 * time.Second // of a call to a control plane
	leaveTime = 15 * time.Second // of the call that leaves, which waits for others
	// settleTime is how long nothing may have been under way before an Envoy ends,
	// for callers that no control plane told.
	settleTime = 500 * time.Millisecond
	pollTime   = 50 * time.Millisecond
	// againTime is how often a proxy that drains says that it leaves: a control
	// plane that was restarted has forgotten it.
	againTime = 5 * time.Second
	// restartFirst and restartMost bound the wait before a crashed Envoy is started
	// again; one that ran for calmTime begins anew.
	restartFirst = 100 * time.Millisecond
	restartMost  = 30 * time.Second
	calmTime     = time.Minute
)

// Proxy is an Envoy beside an application, from when its machine joins to when
// it leaves.
type Proxy struct {
	Options
	state    *state
	caPEM    []byte
	planes   *planes
	admin    *envoyAdmin
	socket   string
	place    api.Place
	envoyBin string
	nudge    chan struct{} // of one place: what is known of the application is to be said now
}

// Run joins, starts the Envoy and keeps it running until ctx ends; then it
// leaves and returns nil. What comes from renew has the Envoy replaced by one
// with the bootstrap and the binary of the moment, by leaving and returning.
func Run(ctx context.Context, o Options, renew <-chan os.Signal) error {
	p := &Proxy{Options: o, nudge: make(chan struct{}, 1)}
	var err error
	if p.envoyBin, err = exec.LookPath(orDefault(o.Envoy, "envoy")); err != nil {
		return fmt.Errorf("envoy: %w (see --envoy)", err)
	}
	state, unlock, err := openState(o.StateDir, o.Service)
	if err != nil {
		return err
	}
	defer unlock()
	p.state = state
	if err := p.pin(ctx); err != nil {
		return ended(ctx, err)
	}
	var held claims
	defer held.close()
	if err := p.settle(&held); err != nil {
		return err
	}
	if err := p.joinUntil(ctx); err != nil {
		return ended(ctx, err)
	}
	if err := p.bootstrapUntil(ctx); err != nil {
		return ended(ctx, err)
	}
	p.Log.Info("this machine is a node of the mesh", "service", p.state.Service, "node", p.state.Node, "address", p.place.Address,
		"mesh_port", p.place.MeshPort, "outbound_port", p.state.Ports.Outbound, "metrics_port", p.state.Ports.Metrics)

	// What goes on beside the Envoy goes on until it has left.
	beside, stop := context.WithCancel(context.WithoutCancel(ctx))
	g, beside := errgroup.WithContext(beside)
	g.Go(func() error { return p.keepToken(beside) })
	g.Go(func() error { watchdog(beside, p.Log); return nil })
	g.Go(func() error { p.keepHealth(beside); return nil })
	err = p.supervise(ctx, renew)
	stop()
	return errors.Join(err, g.Wait())
}

// ended is nil if the context has ended: that is no failure.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil //nolint:nilerr // ended from outside
	}
	return err
}

func orDefault(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// pin finds the root that the control planes are known by.
func (p *Proxy) pin(ctx context.Context) error {
	if len(p.XDSAddresses) == 0 {
		return errors.New("no address of a control plane")
	}
	switch {
	case p.CAFile != "":
		data, err := os.ReadFile(p.CAFile)
		if err != nil {
			return fmt.Errorf("the root of the control planes: %w", err)
		}
		p.caPEM = data
	default:
		hash, err := identity.ParseRootHash(p.CAHash)
		if err != nil {
			return err
		}
		if err := p.pinByHash(ctx, hash); err != nil {
			return err
		}
	}
	creds, err := controlPlaneCredentials(p.caPEM)
	if err != nil {
		return err
	}
	p.planes = &planes{addresses: p.XDSAddresses, creds: creds}
	return nil
}

func (p *Proxy) pinByHash(ctx context.Context, hash identity.RootHash) error {
	path := p.state.path(caFile)
	if data, err := os.ReadFile(path); err == nil {
		if kept, err := identity.HashRoot(data); err == nil && kept == hash {
			p.caPEM = data
			return nil
		}
	}
	return p.until(ctx, "the root of the control planes was not found", func() (bool, error) {
		data, err := fetchRoot(ctx, p.XDSAddresses, hash)
		if err != nil {
			return false, err
		}
		p.caPEM = data
		return true, atomicfile.Write(path, data, 0o644)
	})
}

// settle chooses what was not said: node, address and ports.
func (p *Proxy) settle(held *claims) error {
	s := p.state
	if p.Service != "" {
		s.Service = p.Service
	}
	var err error
	if p.Address == "" {
		if p.Address, err = ownAddress(p.XDSAddresses); err != nil {
			return err
		}
	}
	if p.NodeID != "" && s.Node != p.NodeID {
		s.Node = p.NodeID
	}
	if s.Node == "" && p.JoinKind != api.NomadToken && s.Service != "" {
		if s.Node, err = newNode(s.Service); err != nil {
			return err
		}
	}
	for _, c := range []struct {
		what, address string
		asked         uint16
		kept          *uint16
		among         portRange
	}{
		{"mesh", p.Address, p.Ports.Mesh, &s.Ports.Mesh, meshPorts},
		{"outbound", "127.0.0.1", p.Ports.Outbound, &s.Ports.Outbound, outboundPorts},
		{"metrics", p.Address, p.Ports.Metrics, &s.Ports.Metrics, metricsPorts},
	} {
		port, moved, err := held.choose(c.what, c.address, c.asked, *c.kept, c.among)
		if err != nil {
			return err
		}
		if moved != nil {
			p.Log.Warn("the port of the last time cannot be taken, and another one was chosen", "what", c.what, "last", *c.kept, "port", port, "err", moved)
		}
		*c.kept = port
	}
	p.place = api.Place{Address: p.Address, MeshPort: s.Ports.Mesh}
	p.socket = filepath.Join(orDefault(p.RuntimeDir, s.dir), "admin.sock")
	if p.socket, err = filepath.Abs(p.socket); err != nil {
		return err
	}
	p.admin = newEnvoyAdmin(p.socket)
	ports := fmt.Sprintf("MESH_OUTBOUND=127.0.0.1:%d\nMESH_PORT=%d\nMESH_METRICS_PORT=%d\n", s.Ports.Outbound, s.Ports.Mesh, s.Ports.Metrics)
	if err := atomicfile.Write(s.path(portsFile), []byte(ports), 0o644); err != nil {
		return fmt.Errorf("state directory: %w", err)
	}
	return s.save()
}

// until tries again until it succeeds, or fails for good.
func (p *Proxy) until(ctx context.Context, failure string, try func() (good bool, err error)) error {
	for failures := 0; ; failures++ {
		good, err := try()
		if good || ctx.Err() != nil {
			return err
		}
		if final(err) {
			return err
		}
		wait := retryAfter(failures, retryStream)
		p.Log.Warn(failure, "retry_in", wait, "err", err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
}

// supervise keeps an Envoy running until ctx ends, and then has it leave.
func (p *Proxy) supervise(ctx context.Context, renew <-chan os.Signal) error {
	failures := 0
	for {
		e, err := p.start()
		if err != nil {
			return err
		}
		switch p.attend(ctx, e, renew) {
		case left:
			return nil
		case renewed:
			failures = 0
			continue
		case crashed:
		}
		if time.Since(e.began) >= calmTime {
			failures = 0
		}
		wait := min(restartFirst<<min(failures, 12), restartMost)
		failures++
		p.Log.Error("Envoy ended, and is started again", "restart_in", wait, "err", e.err)
		notify(p.Log, "STATUS=Envoy ended, and is started again")
		select {
		case <-ctx.Done():
			notify(p.Log, daemon.SdNotifyStopping)
			p.sayLeave(context.WithoutCancel(ctx)) // its next Envoy is not to be waited for
			return nil
		case <-time.After(wait):
		}
	}
}

func (p *Proxy) start() (*envoy, error) {
	if info, err := os.Lstat(p.socket); err == nil && info.Mode()&os.ModeSocket != 0 {
		if err := os.Remove(p.socket); err != nil { // of an Envoy that was killed
			return nil, err
		}
	}
	return startEnvoy(envoyOptions{
		path: p.envoyBin, config: p.state.path(bootstrapFile), level: orDefault(p.EnvoyLevel, "warning"), workers: p.Workers,
		drainTime: p.DrainTime, stdout: p.Stdout, log: p.Log,
	})
}

// outcome is how the time of one Envoy ended.
type outcome int

const (
	crashed outcome = iota
	renewed         // it has left, for the next one
	left            // it has left
)

// attend is with an Envoy from its start to its end.
func (p *Proxy) attend(ctx context.Context, e *envoy, renew <-chan os.Signal) outcome {
	up, cancel := context.WithCancel(ctx)
	var beside sync.WaitGroup
	down := func() { cancel(); beside.Wait() } // nobody says then that it is back
	defer down()
	ready := make(chan struct{})
	beside.Go(func() {
		if p.awaitReady(up, e) {
			close(ready)
		}
	})
	for {
		select {
		case <-e.done:
			return crashed
		case <-ready:
			ready = nil
			p.Log.Info("Envoy is ready")
			notify(p.Log, daemon.SdNotifyReady)
			select { // it may be registered anew
			case p.nudge <- struct{}{}:
			default:
			}
			beside.Go(func() { p.comeBack(up) })
		case <-renew:
			// What the next one starts with is there, and it can, before this one
			// leaves.
			if err := p.bootstrap(ctx); err != nil {
				p.Log.Error("the Envoy is not replaced: it goes on", "err", err)
				continue
			}
			p.Log.Info("the Envoy is replaced")
			down()
			p.leave(e, false)
			return renewed
		case <-ctx.Done():
			notify(p.Log, daemon.SdNotifyStopping)
			down()
			p.leave(e, true)
			return left
		}
	}
}

// awaitReady waits until the Envoy serves.
func (p *Proxy) awaitReady(ctx context.Context, e *envoy) bool {
	for {
		if p.admin.ready(ctx) == nil {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-e.done:
			return false
		case <-time.After(pollTime):
		}
	}
}

// comeBack tells each control plane that the place takes calls, in case that it
// left before: one that does not hear of it would keep callers away.
func (p *Proxy) comeBack(ctx context.Context) {
	for failures := 0; ; failures++ {
		err := p.asNode(ctx, callTime, p.planes.each, func(ctx context.Context, conn grpc.ClientConnInterface) error {
			return api.Return(ctx, conn, &p.place)
		})
		if err == nil || ctx.Err() != nil {
			return
		}
		wait := retryAfter(failures, retryStream)
		p.Log.Warn("not every control plane was told that this proxy is back", "retry_in", wait, "err", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}
