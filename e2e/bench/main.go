// Command bench measures the control plane's engine side by side with others
// that serve the same resources: go-control-plane's SnapshotCache and
// LinearCache, and a bare gRPC server that pushes bytes which were encoded
// beforehand (the floor). Each server is a process of its own, so that its CPU
// and memory are its alone; the streams are in this one. It owns no part of the
// product and judges none: it prints a table.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
)

// run is one row of the plan: a world, and the servers to put through it.
type run struct {
	title   string
	world   world
	kinds   []string
	changes int
}

var all = []string{"ours", "floor", "snapshot", "linear"}

var quick = []run{
	{"every stream asks for all", world{Services: 200, Instances: 10, Streams: 200}, all, 5},
	{"every stream asks for 10 of its own", world{Services: 1000, Instances: 10, Streams: 200, Scope: 10}, all[:3], 5},
}

var full = []run{
	{"every stream asks for all", world{Services: 1000, Instances: 10, Streams: 2000}, all, 5},
	{"every stream asks for 10 of its own", world{Services: 1000, Instances: 10, Streams: 2000, Scope: 10}, []string{"ours", "floor"}, 5},
	{"ten thousand streams", world{Services: 1000, Instances: 10, Streams: 10000}, []string{"ours", "floor"}, 3},
	{"growth: services", world{Services: 100, Instances: 10, Streams: 500}, all[:1], 5},
	{"growth: services", world{Services: 1000, Instances: 10, Streams: 500}, all[:1], 5},
	{"growth: services", world{Services: 5000, Instances: 10, Streams: 500}, all[:1], 5},
	{"growth: instances", world{Services: 200, Instances: 1, Streams: 500}, all[:1], 5},
	{"growth: instances", world{Services: 200, Instances: 10, Streams: 500}, all[:1], 5},
	{"growth: instances", world{Services: 200, Instances: 100, Streams: 500}, all[:1], 5},
	{"growth: streams", world{Services: 200, Instances: 10, Streams: 250}, all[:1], 5},
	{"growth: streams", world{Services: 200, Instances: 10, Streams: 1000}, all[:1], 5},
	{"growth: streams", world{Services: 200, Instances: 10, Streams: 4000}, all[:1], 5},
}

func main() {
	serveKind := flag.String("serve", "", "be the server of this kind (the bench starts itself so)")
	spec := flag.String("world", "", "the world of --serve, as JSON")
	short := flag.Bool("quick", false, "small worlds: two minutes")
	only := flag.String("only", "", "runs whose title contains this")
	asJSON := flag.Bool("json", false, "one JSON object a line")
	flag.Parse()
	if *serveKind != "" {
		var w world
		err := json.Unmarshal([]byte(*spec), &w)
		if err == nil {
			err = serve(*serveKind, w)
		}
		fail(err)
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	plan := full
	if *short {
		plan = quick
	}
	for _, r := range plan {
		if strings.Contains(r.title, *only) {
			fail(r.do(ctx, *asJSON))
		}
	}
}

func (r run) do(ctx context.Context, asJSON bool) error {
	w := r.world
	if !asJSON {
		scope := "all"
		if w.Scope > 0 {
			scope = fmt.Sprint(w.Scope)
		}
		fmt.Printf("\n### %s: %d streams of %s of %d services of %d instances\n\n", r.title, w.Streams, scope, w.Services, w.Instances)
		fmt.Println("| server | first sync, CPU s | wall s | MB | RSS MB | KB a stream | change, CPU ms | to the floor | allocations | KB | p50 ms | p99 ms | last ms | CPU s of the streams |")
		fmt.Println("|---|---|---|---|---|---|---|---|---|---|---|---|---|---|")
	}
	var results []result
	for _, kind := range r.kinds {
		res, err := measure(ctx, kind, w, r.changes)
		if err != nil {
			return err
		}
		results = append(results, res)
		if asJSON {
			if err := json.NewEncoder(os.Stdout).Encode(res); err != nil {
				return err
			}
		}
	}
	if asJSON {
		return nil
	}
	floor := 0.0
	for _, res := range results {
		if res.Kind == "floor" {
			floor = res.ChangeCPU
		}
	}
	for _, res := range results {
		ratio := "-"
		if floor > 0 {
			ratio = fmt.Sprintf("%.2f", res.ChangeCPU/floor)
		}
		fmt.Printf("| %s | %.2f | %.1f | %.1f | %.0f | %.1f | %.1f | %s | %.0f | %.1f | %.1f | %.1f | %.1f | %.1f |\n",
			res.Kind, res.SyncCPU, res.SyncWall, res.SyncMB, res.RSS, res.StreamKB, res.ChangeCPU*1e3, ratio,
			res.ChangeAlloc, res.ChangeKB, res.P50, res.P99, res.Last, res.ClientCPU)
	}
	return nil
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}
