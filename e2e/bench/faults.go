package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"datapunk.dev/controlplane/e2e/run"
	"datapunk.dev/controlplane/internal/consulagent"
	"datapunk.dev/controlplane/internal/tool"
)

// faulty is a server of a fault: the control plane as it is shipped, with a Consul
// beside it, or Consul's own mesh.
type faulty struct {
	*subject
	catalog *agent
	kill    func()
	start   func(context.Context) error
}

// faultyKinds are the two.
var faultyKinds = []string{"controlplane", "consul"}

// startFaulty starts one of them. Only what is kept on disk (state) is there after a
// restart of Consul.
func startFaulty(ctx context.Context, kind string, w world, state bool) (*faulty, error) {
	a, err := startAgent(ctx, consulagent.Options{MaxConns: manyConns, State: state})
	if err != nil {
		return nil, err
	}
	if err := a.register(w); err != nil {
		a.stop()
		return nil, err
	}
	if kind == "consul" {
		if err := a.registerSidecars(w); err != nil {
			a.stop()
			return nil, err
		}
		return &faulty{
			subject: &subject{kind: kind, xds: a.GRPC, sidecars: true, usage: a.usage, stop: a.stop},
			catalog: a, kill: a.Kill, start: a.Start,
		}, nil
	}
	f, err := startControlPlane(ctx, a)
	if err != nil {
		a.stop()
	}
	return f, err
}

// startControlPlane builds the control plane, and starts it beside a Consul.
func startControlPlane(ctx context.Context, a *agent) (*faulty, error) {
	dir, err := os.MkdirTemp("", "bench-plane-")
	if err != nil {
		return nil, err
	}
	ports := &tool.Ports{}
	clean := func() {
		ports.Close()
		_ = os.RemoveAll(dir)
	}
	p, err := func() (*run.ControlPlane, error) {
		binary, err := run.Build(dir)
		if err != nil {
			return nil, err
		}
		on, err := ports.TakeN(2)
		if err != nil {
			return nil, err
		}
		host, port, err := net.SplitHostPort(a.HTTP)
		if err != nil {
			return nil, err
		}
		file := filepath.Join(dir, "mesh.yaml")
		text := fmt.Sprintf("mesh:\n  name: bench\n  discovery: {method: consul, consul: {host: %q, port: %s}}\n"+
			"  security: {mtls: {enabled: false}, authorization: {enabled: false}}\n", host, port)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			return nil, err
		}
		p, err := run.StartControlPlane(run.PlaneOptions{
			Binary: binary, Dir: dir, Files: []string{file}, Plaintext: true,
			XDSAddress: fmt.Sprintf("127.0.0.1:%d", on[0]), Admin: fmt.Sprintf("127.0.0.1:%d", on[1]),
		})
		if err != nil {
			return nil, err
		}
		return p, p.WaitReady(ctx, time.Minute)
	}()
	if err != nil {
		clean()
		return nil, err
	}
	return &faulty{
		subject: &subject{kind: "controlplane", xds: p.XDSAddress(), beside: a, usage: func(string) (usage, error) { return processUsage(p.Pid()) }, stop: func() {
			p.Kill()
			a.stop()
			clean()
		}},
		catalog: a, kill: func() { p.Kill() }, start: func(context.Context) error { return p.Start() },
	}, nil
}

// faultResult is what came of a fault.
type faultResult struct {
	Title, Kind string
	World       world
	Whole       float64 // seconds from when that could be until every proxy had all, and the last change
	Change      float64 // seconds until every proxy had a change that was made meanwhile; 0: none was
	Refuser     bool    // the proxy that refuses one change has the other one too
	Removed     int64   // services that were taken from a proxy
	Lacking     float64 // seconds that a service of a proxy had no instance, on average
	Responses   int64   // while the fault was there and after it
	Resources   int64
	Nacks       int64
	CPU         float64 // seconds of the server, without a Consul beside it
	RSS         float64 // MB at most
	Others      float64 // cores that something else used

	over time.Time // from when all could be well again
}

// faultTime bounds what is waited for.
const faultTime = time.Minute

// sameFault has both servers live through a fault. The fault itself is told of when the
// proxies have all that there is, and returns which place of the first service they are
// to have in the end.
func sameFault(title string, w world, state bool, fault func(context.Context, *faulty, *survivors, *faultResult) (int, error)) experiment {
	return experiment{title, func(ctx context.Context, title string, out *report) error {
		out.table(title+": "+w.String(), "server", "s until all is well", "s until a change is seen meanwhile", "also by who refuses", "services taken from a proxy",
			"s that a service had no instance, mean", "responses", "resources", "NACKs", "CPU s", "RSS MB at most", "other cores")
		for _, kind := range faultyKinds {
			r, err := liveThrough(ctx, title, kind, w, state, fault)
			if err != nil {
				return fmt.Errorf("%s: %w", kind, err)
			}
			out.line(r)
			out.row(kind, "%.1f", r.Whole, "%.2f", r.Change, "%t", r.Refuser, "%d", r.Removed, "%.1f", r.Lacking, "%d", r.Responses, "%d", r.Resources, "%d", r.Nacks,
				"%.2f", r.CPU, "%.0f", r.RSS, "%.2f", r.Others)
		}
		return nil
	}}
}

func liveThrough(ctx context.Context, title, kind string, w world, state bool, fault func(context.Context, *faulty, *survivors, *faultResult) (int, error)) (*faultResult, error) {
	s, err := startFaulty(ctx, kind, w, state)
	if err != nil {
		return nil, err
	}
	defer s.stop()
	f := startSurvivors(s.subject, w)
	defer f.end()
	r := &faultResult{Title: title, Kind: kind, World: w}
	watched, stopWatching := context.WithCancel(ctx)
	var most atomic.Int64
	var background sync.WaitGroup
	background.Go(func() { watchRSS(watched, s.subject, &most) })
	others := s.others()
	place, err := fault(ctx, s, f, r)
	if r.over.IsZero() {
		r.over = time.Now()
	}
	if err == nil {
		err = f.whole(ctx, place)
	}
	r.Whole = time.Since(r.over).Seconds()
	stopWatching()
	background.Wait()
	if err != nil {
		return nil, err
	}
	r.Others, r.RSS = others.cores(), float64(most.Load())/1e6
	r.Removed, r.Lacking = f.removed.Load(), f.lacking().Seconds()
	r.Responses, r.Resources, r.Nacks = f.responses.Load()-r.Responses, f.resources.Load()-r.Resources, f.nacks.Load()
	if u, err := s.usage(nothing); err == nil {
		r.CPU = u.CPU - r.CPU
	}
	return r, nil
}

// whole waits until every proxy has all.
func (f *survivors) whole(ctx context.Context, place int) error {
	for began := time.Now(); time.Since(began) < faultTime; {
		if f.behind(place) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
	return fmt.Errorf("%d of %d proxies lack something after %s", f.behind(place), len(f.all), faultTime)
}

// connectAll has all proxies connect, and begins to count when they have all.
func (f *survivors) connectAll(ctx context.Context, s *faulty, r *faultResult) error {
	close(f.begin)
	if err := f.whole(ctx, 0); err != nil {
		return err
	}
	time.Sleep(settle)
	f.countFrom(s, r)
	return nil
}

// countFrom has what was there before left out.
func (f *survivors) countFrom(s *faulty, r *faultResult) {
	r.Responses, r.Resources = f.responses.Load(), f.resources.Load()
	if u, err := s.usage(nothing); err == nil {
		r.CPU = u.CPU
	}
}

// aStorm is that all proxies connect at once, to a server that has nothing else to do.
func aStorm(ctx context.Context, s *faulty, f *survivors, r *faultResult) (int, error) {
	f.countFrom(s, r)
	close(f.begin)
	return 0, ctx.Err()
}

// aRefusal is that one proxy rejects what the first service becomes, for ten seconds, in
// which the second one changes too.
func aRefusal(ctx context.Context, s *faulty, f *survivors, r *faultResult) (int, error) {
	if err := f.connectAll(ctx, s, r); err != nil {
		return 0, err
	}
	f.all[0].refuses.Store(0)
	if err := s.catalog.move(0, 1); err != nil {
		return 0, err
	}
	time.Sleep(5 * time.Second)
	began := time.Now()
	if err := s.catalog.move(1, 1); err != nil {
		return 0, err
	}
	for _, p := range f.all[1:] {
		for !p.at(1, 1) {
			if time.Since(began) > faultTime {
				return 0, errors.New("the second service has not changed for all")
			}
			time.Sleep(time.Millisecond)
		}
	}
	r.Change = time.Since(began).Seconds()
	time.Sleep(5*time.Second - min(time.Since(began), 5*time.Second))
	r.Refuser = f.all[0].at(1, 1)
	return 1, nil
}

// at reports whether a proxy has the nth place of a service, or a later one.
func (p *survivor) at(service, n int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.places[service] >= n
}

// aRestart is that what serves is killed, and started two seconds later; meanwhile
// the first service has changed, or changes as soon as it can.
func aRestart(ctx context.Context, s *faulty, f *survivors, r *faultResult) (int, error) {
	if err := f.connectAll(ctx, s, r); err != nil {
		return 0, err
	}
	s.kill()
	r.CPU = 0 // another process begins
	time.Sleep(2 * time.Second)
	r.over = time.Now()
	if err := s.start(ctx); err != nil {
		return 0, err
	}
	return 1, s.catalog.move(0, 1)
}

// aWipe is that the Consul server loses what it knew, and is filled again from three
// seconds later on: first by the proxies, then by one instance after the other.
func aWipe(ctx context.Context, s *faulty, f *survivors, r *faultResult) (int, error) {
	if err := f.connectAll(ctx, s, r); err != nil {
		return 0, err
	}
	if s.kind == "consul" {
		r.CPU = 0
	}
	if err := s.catalog.Restart(ctx); err != nil {
		return 0, err
	}
	time.Sleep(3 * time.Second)
	if s.sidecars {
		if err := s.catalog.registerSidecars(f.w); err != nil {
			return 0, err
		}
	}
	every := 10 * time.Second / time.Duration(f.w.Services*f.w.Instances)
	for service := range f.w.Services {
		for k := range f.w.Instances {
			if err := s.catalog.put(service, k, 0); err != nil {
				return 0, err
			}
			time.Sleep(every)
		}
	}
	return 1, s.catalog.move(0, 1)
}
