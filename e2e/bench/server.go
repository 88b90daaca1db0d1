package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"datapunk.dev/controlplane/control"
	"datapunk.dev/controlplane/sds"
	"datapunk.dev/controlplane/watch"
	"datapunk.dev/controlplane/xds"
)

// trustDomain is the seed file's.
const trustDomain = "datapunk"

// server is one kind of xDS server under test.
type server interface {
	options() []grpc.ServerOption
	register(*grpc.Server)
	// prepare does beforehand what is not part of the comparison.
	prepare(service, n int) error
	// change moves the first instance of a service to its nth place.
	change(service, n int) error
}

// What a server process does before its usage is read.
const (
	nothing   = ""
	collected = "gc"   // a collection of garbage
	returned  = "free" // the same, and what is free goes back to the system
)

// usage is what a server process has used since it started.
type usage struct {
	CPU     float64 `json:"cpu"` // user and system, in seconds
	RSS     int64   `json:"rss"` // in bytes
	Mallocs uint64  `json:"mallocs"`
	Alloc   uint64  `json:"alloc"` // in bytes

	TooMany uint64 `json:"too_many"` // answers 429 of Consul
}

// serve is the server process: xDS on one port, and on the other what the
// bench wants of it. It prints both addresses and runs until it is killed.
func serve(kind string, w world) error {
	s, err := newServer(kind, w)
	if err != nil {
		return err
	}
	options := s.options()
	if w.DataDir != "" {
		creds, err := serverTLS(w.DataDir)
		if err != nil {
			return err
		}
		options = append(options, grpc.Creds(creds))
	}
	g := grpc.NewServer(options...)
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
		switch r.URL.Query().Get("after") {
		case collected:
			runtime.GC()
		case returned:
			debug.FreeOSMemory()
		}
		u := used()
		if o, ok := s.(*ours); ok && o.catalogs != nil {
			stats, _ := o.catalogs.Consul()
			u.TooMany = stats.TooMany
		}
		_ = json.NewEncoder(rw).Encode(u)
	})
	var profile *os.File
	mux.HandleFunc("POST /profile", func(rw http.ResponseWriter, r *http.Request) {
		if profile != nil {
			pprof.StopCPUProfile()
			_ = profile.Close()
		}
		file := r.URL.Query().Get("file")
		if profile = nil; file == "" {
			return
		}
		f, err := os.Create(file)
		if err == nil {
			profile, err = f, pprof.StartCPUProfile(f)
		}
		if err != nil {
			http.Error(rw, err.Error(), http.StatusInternalServerError)
		}
	})
	go func() { _ = http.Serve(c, mux) }() //nolint:gosec // one client, on loopback, for the length of a run
	fmt.Printf("%s %s\n", l.Addr(), c.Addr())
	return g.Serve(l)
}

func serverTLS(dir string) (credentials.TransportCredentials, error) {
	ca, _, err := sds.Open(dir, trustDomain)
	if err != nil {
		return nil, err
	}
	m, err := sds.NewManager(ca, sds.Options{Rotation: 24 * time.Hour, TTL: 48 * time.Hour})
	if err != nil {
		return nil, err
	}
	return credentials.NewTLS(m.ServerTLS()), nil
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

// ours is the product, from the catalog on: loop, translate, xds; with a Consul
// beside, its watch too.
type ours struct {
	w    world
	loop *control.Loop
	xds  *xds.Server

	catalogs *control.Catalogs // nil: the catalog is in the process

	mu      sync.Mutex
	catalog *watch.Catalog
	edits   map[int]int // by service, where it is the mesh file that changes
}

func newOurs(w world) (*ours, error) {
	m, err := w.mesh()
	if err != nil {
		return nil, err
	}
	o := &ours{w: w, edits: make(map[int]int)}
	quiet := slog.New(slog.DiscardHandler)
	o.loop = control.NewLoop(quiet, func(_ *snapshot, served xds.Snapshot) { o.xds.Publish(served) }, func(ctx context.Context) <-chan struct{} { return o.xds.Acked(ctx, nil) })
	o.xds = xds.New(xds.Options{
		Logger: quiet, OnFleet: o.loop.SetFleet,
		Limits: xds.Limits{StreamRate: 1e6, StreamBurst: 1e6}, // the others have none
	})
	o.loop.SetRoots(roots)
	o.loop.SetMesh(m)
	if w.Consul != "" {
		catalogs := control.NewCatalogs(quiet, "", control.NewRevisions("").Meant, o.loop.SetCatalog)
		if err := catalogs.Follow(m); err != nil {
			return nil, err
		}
		o.catalogs = catalogs
		go func() { _ = catalogs.Run(context.Background()) }()
	} else {
		o.catalog = w.catalog()
		o.loop.SetCatalog(o.catalog)
	}
	go func() { _ = o.loop.Run(context.Background()) }()
	for began := time.Now(); o.loop.Status().Snapshot == nil; time.Sleep(time.Millisecond) {
		if time.Since(began) > time.Minute {
			return nil, errors.New("no catalog within a minute")
		}
	}
	return o, nil
}

func (o *ours) options() []grpc.ServerOption { return o.xds.ServerOptions() }
func (o *ours) register(g *grpc.Server)      { o.xds.Register(g) }

func (o *ours) prepare(int, int) error { return nil }

func (o *ours) change(service, n int) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.w.Change == "route" {
		o.edits[service] = n
		m, err := o.w.edited(o.edits)
		if err == nil {
			o.loop.SetMesh(m)
		}
		return err
	}
	o.catalog = o.catalog.Update([]*watch.Service{o.w.service(service, n)}, nil)
	o.loop.SetCatalog(o.catalog)
	return nil
}
