package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/credentials/insecure"

	"datapunk.dev/controlplane/e2e/run"
)

// agent is a Consul in development mode, a server with its state in memory.
type agent struct {
	process           *run.Process
	ports             *run.Ports
	dir               string
	http, https, grpc string // host and port
	client            *http.Client
	api               *api.Client
	w                 world // what is registered
}

// agentOptions are what differs from one run to another.
type agentOptions struct {
	certFile, keyFile string // serves HTTPS too
	defaultLimits     bool   // 200 connections a client
}

// startAgent starts an agent that serves HTTP and, without TLS, Consul's own xDS.
func startAgent(ctx context.Context, o agentOptions) (*agent, error) {
	path, err := run.Find("consul")
	if err != nil {
		return nil, err
	}
	a := &agent{ports: &run.Ports{}}
	if a.dir, err = os.MkdirTemp("", "bench-consul-"); err != nil {
		return nil, err
	}
	p, err := a.ports.TakeN(6)
	if err != nil {
		return nil, err
	}
	on := func(port int) string { return "127.0.0.1:" + strconv.Itoa(port) }
	a.http, a.https, a.grpc = on(p[0]), on(p[1]), on(p[2])
	args := []string{
		"agent", "-dev", "-node=agent", "-log-level=warn", "-bind=127.0.0.1", "-client=127.0.0.1",
		fmt.Sprintf("-http-port=%d", p[0]), fmt.Sprintf("-grpc-port=%d", p[2]), "-grpc-tls-port=-1", "-dns-port=-1",
		fmt.Sprintf("-server-port=%d", p[3]), fmt.Sprintf("-serf-lan-port=%d", p[4]), fmt.Sprintf("-serf-wan-port=%d", p[5]),
		"-hcl=disable_update_check = true",
	}
	if o.certFile != "" {
		args = append(args, fmt.Sprintf("-https-port=%d", p[1]),
			fmt.Sprintf("-hcl=tls { https { cert_file = %q, key_file = %q } }", o.certFile, o.keyFile))
	}
	if !o.defaultLimits {
		args = append(args, "-hcl=limits { http_max_conns_per_client = 15000 }")
	}
	config := api.DefaultConfig()
	config.Address, config.Scheme, config.Token, config.Datacenter, config.Namespace = a.http, "http", "", "", ""
	a.client = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: makers}}
	config.HttpClient = a.client
	if a.api, err = api.NewClient(config); err != nil {
		return nil, err
	}
	if a.process, err = run.StartProcess(run.Command{Name: "consul", Path: path, Args: args, Dir: a.dir}); err != nil {
		return nil, err
	}
	err = run.Until(ctx, "consul has a leader", 30*time.Second, func() error {
		nodes, _, err := a.api.Catalog().Nodes(nil)
		if err == nil && len(nodes) == 0 {
			err = errors.New("the agent is not in its catalog")
		}
		return err
	})
	if err != nil {
		err = fmt.Errorf("%w\n%s", err, a.process.Log.Tail(20))
		a.stop()
		return nil, err
	}
	return a, nil
}

func (a *agent) stop() {
	a.process.Kill()
	a.ports.Close()
	_ = os.RemoveAll(a.dir)
}

// writers is how many registrations are under way at once.
const writers = 8

// register puts the services of the world into the catalog.
func (a *agent) register(w world) error {
	a.w = w
	var g errgroup.Group
	g.SetLimit(writers)
	for s := range w.Services {
		for k := range w.Instances {
			g.Go(func() error { return a.put(s, k, 0) })
		}
	}
	return g.Wait()
}

// move re-registers the first instance of a service with another port.
func (a *agent) move(service, n int) error { return a.put(service, 0, n) }

// put registers an instance on a node of its own, as the sidecars of both
// meshes want it: in Consul's it speaks mTLS itself (Connect native), in ours a
// sidecar listens on its mesh_port.
func (a *agent) put(s, k, n int) error {
	in := a.w.service(s, n).Instances[k]
	node := in.ID + "-node"
	_, err := a.api.Catalog().Register(&api.CatalogRegistration{
		Node: node, Address: in.Address.String(), SkipNodeUpdate: n > 0,
		Service: &api.AgentService{
			ID: in.ID, Service: serviceName(s), Address: in.Address.String(), Port: int(in.MeshPort),
			Meta:    map[string]string{"mesh_port": strconv.Itoa(int(in.MeshPort))},
			Connect: &api.AgentServiceConnect{Native: true},
			Weights: api.AgentWeights{Passing: 1, Warning: 1},
		},
		Check: &api.AgentCheck{Node: node, CheckID: "check:" + in.ID, Name: "up", Status: api.HealthPassing, ServiceID: in.ID, ServiceName: serviceName(s)},
	}, nil)
	return err
}

// setHealth changes the check of the first instance, and nothing else.
func (a *agent) setHealth(s int, status string) error {
	in := a.w.service(s, 0).Instances[0]
	_, err := a.api.Catalog().Register(&api.CatalogRegistration{
		Node: in.ID + "-node", Address: in.Address.String(), SkipNodeUpdate: true,
		Check: &api.AgentCheck{Node: in.ID + "-node", CheckID: "check:" + in.ID, Name: "up", Status: status, ServiceID: in.ID, ServiceName: serviceName(s)},
	}, nil)
	return err
}

// usage is the agent's CPU, to the hundredth of a second, and its memory.
func (a *agent) usage(string) (usage, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", a.process.Pid()))
	if err != nil {
		return usage{}, err
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	columns := strings.Fields(rest)
	if len(columns) < 22 {
		return usage{}, fmt.Errorf("/proc/%d/stat: %q", a.process.Pid(), stat)
	}
	user, _ := strconv.ParseFloat(columns[11], 64)
	system, _ := strconv.ParseFloat(columns[12], 64)
	pages, _ := strconv.ParseInt(columns[21], 10, 64)
	return usage{CPU: (user + system) / userHZ, RSS: pages * int64(os.Getpagesize())}, nil
}

func sidecarID(stream int) string   { return fmt.Sprintf("client-%05d-sidecar-proxy", stream) }
func sidecarNode(stream int) string { return fmt.Sprintf("client-%05d-node", stream) }

// startConsulMesh starts an agent that serves the world's streams itself.
// Consul's limiter counts the sidecars of the catalog, so all are registered
// first. Its other settings are the defaults.
func startConsulMesh(ctx context.Context, w world) (*subject, error) {
	a, err := startAgent(ctx, agentOptions{})
	if err != nil {
		return nil, err
	}
	if err := errors.Join(a.register(w), a.registerSidecars(w)); err != nil {
		a.stop()
		return nil, err
	}
	return &subject{
		kind: "consul", xds: a.grpc, creds: insecure.NewCredentials(), sidecars: true,
		prepare: func(int, int) error { return nil }, change: a.move, usage: a.usage, stop: a.stop,
	}, nil
}

func (a *agent) registerSidecars(w world) error {
	var g errgroup.Group
	g.SetLimit(writers)
	for i := range w.Streams {
		g.Go(func() error {
			proxy := &api.AgentServiceConnectProxyConfig{
				DestinationServiceName: "client", DestinationServiceID: fmt.Sprintf("client-%05d", i),
				LocalServiceAddress: "127.0.0.1", LocalServicePort: 8080,
			}
			for k, name := range w.upstreams(i) {
				proxy.Upstreams = append(proxy.Upstreams, api.Upstream{
					DestinationType: api.UpstreamDestTypeService, DestinationName: name, LocalBindPort: 10000 + k,
				})
			}
			_, err := a.api.Catalog().Register(&api.CatalogRegistration{
				Node: sidecarNode(i), Address: fmt.Sprintf("10.255.%d.%d", i>>8, i&255),
				Service: &api.AgentService{
					Kind: api.ServiceKindConnectProxy, ID: sidecarID(i), Service: "client-sidecar-proxy", Port: 15000, Proxy: proxy,
				},
			}, nil)
			return err
		})
	}
	return g.Wait()
}
