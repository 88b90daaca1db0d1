// Command soak keeps a control plane under churn of everything for as long as it is
// told to, and writes down what it uses: memory, goroutines, descriptors, streams. It
// ends with 1 if any of them grew after the first third, or if a request failed.
//
//	go run ./e2e/soak --for 30m --csv docs/soak.csv
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"datapunk.dev/controlplane/e2e/run"
	"datapunk.dev/controlplane/e2e/traffic"
	"datapunk.dev/controlplane/internal/consulagent"
	"datapunk.dev/controlplane/internal/tool"
)

const (
	proxies  = 200 // that are no Envoys: streams over TLS, each with a token
	services = 20  // of instances that nobody calls
	every    = 5 * time.Second

	// short has certificates renewed all the time, and Consul asked often.
	short = `mesh:
  security: {mtls: {cert_rotation: 30s, cert_ttl: 90s}}
`
)

func main() {
	length := flag.Duration("for", 30*time.Minute, "how long")
	csv := flag.String("csv", "", "where the samples go (default: a temporary file)")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := soak(ctx, *length, *csv)
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "soak: %v\n", err)
		os.Exit(1)
	}
}

func soak(ctx context.Context, length time.Duration, csv string) (err error) {
	dir, err := os.MkdirTemp("", "soak-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if csv == "" {
		csv = filepath.Join(os.TempDir(), "soak.csv")
	}
	m, consul, err := start(ctx, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	defer consul.Kill()

	load := traffic.Load{
		Addr: m.Sidecar("nexus-1").Outbound(), Request: traffic.Request{Host: "lake_service"}, Rate: 50,
	}.Start(ctx)
	churning, stop := context.WithTimeout(ctx, length)
	defer stop()
	c := &churn{mesh: m, consul: consul, file: filepath.Join(dir, "mesh.yaml")}
	var all sync.WaitGroup
	if err := c.start(churning, &all); err != nil {
		return err
	}
	samples, err := watch(churning, m.Plane, csv)
	stop()
	all.Wait()
	result := load.Stop()
	fmt.Printf("%s\n%d requests, %d failed; the samples are in %s\n", c.did(), result.Requests, result.Failed(), csv)
	if result.Failed() > 0 {
		err = errors.Join(err, fmt.Errorf("%s", result))
	}
	return errors.Join(err, ctx.Err(), judge(samples))
}

// start starts a Consul whose state outlives it, a control plane, a caller and two
// that are called.
func start(ctx context.Context, dir string) (*run.Mesh, *consulagent.Agent, error) {
	binary, err := run.Build(dir, "-trimpath")
	if err != nil {
		return nil, nil, err
	}
	seed, err := os.ReadFile(filepath.Join(tool.Root(), "configs", "mesh.yaml"))
	if err != nil {
		return nil, nil, err
	}
	text := strings.Replace(string(seed), "register_interval: 10s", "register_interval: 10s\n      register: {enabled: false}", 1)
	files := []string{filepath.Join(dir, "mesh.yaml"), filepath.Join(dir, "short.yaml")}
	if err := errors.Join(run.WriteFile(files[0], text), run.WriteFile(files[1], short)); err != nil {
		return nil, nil, err
	}
	consul, err := consulagent.Start(ctx, consulagent.Options{Dir: dir, Ports: &tool.Ports{}, State: true})
	if err != nil {
		return nil, nil, err
	}
	host, port, _ := strings.Cut(consul.HTTP, ":")
	m, err := run.NewMesh(ctx, run.MeshOptions{
		Binary: binary, Dir: dir, Files: files, Flags: []string{"--catalog", "consul"}, Env: []string{"CONSUL_HOST=" + host, "CONSUL_PORT=" + port},
	})
	if err != nil {
		consul.Kill()
		return nil, nil, err
	}
	err = m.StartPlane(ctx)
	for _, spec := range []run.Spec{{Service: "nexus", ID: "nexus-1"}, {Service: "lake_service", ID: "lake-1"}, {Service: "lake_service", ID: "lake-2"}} {
		if err == nil {
			err = add(ctx, m, consul, spec)
		}
	}
	if err != nil {
		consul.Kill()
		return nil, nil, errors.Join(err, m.Close())
	}
	return m, consul, nil
}

// add starts a sidecar, and registers it when it is live.
func add(ctx context.Context, m *run.Mesh, consul *consulagent.Agent, spec run.Spec) error {
	spec.Unregistered = true
	s, err := m.Add(ctx, spec)
	if err != nil {
		return err
	}
	if err := s.Envoy.WaitReady(ctx, 30*time.Second); err != nil {
		return err
	}
	return consul.Register(consulagent.Instance{Service: s.Service, ID: s.ID, Address: "127.0.0.1", Port: s.AppPort, MeshPort: s.MeshPort})
}
