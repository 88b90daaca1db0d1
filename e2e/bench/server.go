package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"google.golang.org/grpc"

	"datapunk.dev/controlplane/control"
	"datapunk.dev/controlplane/watch"
	"datapunk.dev/controlplane/xds"
)

// server is one kind of xDS server under test.
type server interface {
	options() []grpc.ServerOption
	register(*grpc.Server)
	// prepare does beforehand what is not part of the comparison.
	prepare(service, n int) error
	// change moves the first instance of a service to its nth place.
	change(service, n int) error
}

// usage is what a server process has used since it started.
type usage struct {
	CPU     float64 `json:"cpu"` // user and system, in seconds
	RSS     int64   `json:"rss"` // in bytes
	Mallocs uint64  `json:"mallocs"`
	Alloc   uint64  `json:"alloc"` // in bytes
}

// serve is the server process: xDS on one port, and on the other what the
// bench wants of it. It prints both addresses and runs until it is killed.
func serve(kind string, w world) error {
	s, err := newServer(kind, w)
	if err != nil {
		return err
	}
	g := grpc.NewServer(s.options()...)
	s.register(g)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	c, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	for path, do := range map[string]func(service, n int) error{"/prepare": s.prepare, "/change": s.change} {
		mux.HandleFunc("POST "+path, func(rw http.ResponseWriter, r *http.Request) {
			service, _ := strconv.Atoi(r.URL.Query().Get("service"))
			n, _ := strconv.Atoi(r.URL.Query().Get("n"))
			if err := do(service, n); err != nil {
				http.Error(rw, err.Error(), http.StatusInternalServerError)
			}
		})
	}
	mux.HandleFunc("GET /usage", func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Has("gc") {
			runtime.GC()
		}
		_ = json.NewEncoder(rw).Encode(used())
	})
	go func() { _ = http.Serve(c, mux) }() //nolint:gosec // one client, on loopback, for the length of a run
	fmt.Printf("%s %s\n", l.Addr(), c.Addr())
	return g.Serve(l)
}

func newServer(kind string, w world) (server, error) {
	switch kind {
	case "ours":
		return newOurs(w)
	case "floor":
		return newFloor(w)
	case "snapshot", "linear":
		return newCache(kind, w)
	}
	return nil, fmt.Errorf("no server %q", kind)
}

func used() usage {
	var r syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &r)
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	seconds := func(t syscall.Timeval) float64 { return float64(t.Sec) + float64(t.Usec)/1e6 }
	return usage{CPU: seconds(r.Utime) + seconds(r.Stime), RSS: residentSet(), Mallocs: m.Mallocs, Alloc: m.TotalAlloc}
}

// residentSet reads VmRSS: getrusage has only the largest there ever was.
func residentSet() int64 {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return kb << 10
		}
	}
	return 0
}

// ours is the product, from the catalog on: loop, translate, xds.
type ours struct {
	w       world
	loop    *control.Loop
	xds     *xds.Server
	catalog *watch.Catalog
}

func newOurs(w world) (*ours, error) {
	m, err := w.mesh()
	if err != nil {
		return nil, err
	}
	o := &ours{w: w, catalog: w.catalog()}
	quiet := slog.New(slog.DiscardHandler)
	o.loop = control.NewLoop(quiet, func(s *snapshot) { o.xds.Publish(s) })
	o.xds = xds.New(xds.Options{Logger: quiet, OnFleet: o.loop.SetFleet})
	o.loop.SetRoots(roots)
	o.loop.SetMesh(m)
	o.loop.SetCatalog(o.catalog)
	go func() { _ = o.loop.Run(context.Background()) }()
	for o.loop.Status().Snapshot == nil {
		runtime.Gosched()
	}
	return o, nil
}

func (o *ours) options() []grpc.ServerOption { return xds.ServerOptions() }
func (o *ours) register(g *grpc.Server)      { o.xds.Register(g) }

func (o *ours) prepare(int, int) error { return nil }

func (o *ours) change(service, n int) error {
	o.catalog = o.catalog.Update([]*watch.Service{o.w.service(service, n)}, nil)
	o.loop.SetCatalog(o.catalog)
	return nil
}
