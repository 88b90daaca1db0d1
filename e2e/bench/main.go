// Command bench measures the control plane side by side with others that serve
// the same resources: go-control-plane's SnapshotCache and LinearCache, Consul's
// own mesh, and a bare gRPC server that pushes bytes which were encoded
// beforehand (the floor). Each server is a process of its own, so that its CPU
// and memory are its alone; the streams are in this one. Then it measures the
// rooms by themselves. It owns no part of the product and judges none: it
// prints tables.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

func main() {
	serveKind := flag.String("serve", "", "be the server of this kind (the bench starts itself so)")
	spec := flag.String("world", "", "the file with the world of --serve, as JSON")
	short := flag.Bool("quick", false, "small worlds: two minutes")
	only := flag.String("only", "", "experiments whose title contains this")
	asJSON := flag.Bool("json", false, "one JSON object a line")
	profiles := flag.String("profiles", "", "write a CPU profile of each server of ours, under change, to this directory")
	flag.Parse()
	if *serveKind != "" {
		fail(serveSpec(*serveKind, *spec))
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	plan := full
	if *short {
		plan = quick
	}
	out := &report{json: *asJSON, profiles: *profiles}
	for _, e := range plan {
		if strings.Contains(e.title, *only) {
			if err := e.do(ctx, e.title, out); err != nil {
				stop()
				fail(fmt.Errorf("%s: %w", e.title, err))
			}
		}
	}
}

func serveSpec(kind, file string) error {
	spec, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var w world
	if err := json.Unmarshal(spec, &w); err != nil {
		return err
	}
	return serve(kind, w)
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}
