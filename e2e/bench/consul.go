package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"github.com/hashicorp/consul/api"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/credentials/insecure"

	"datapunk.dev/controlplane/internal/consulagent"
	"datapunk.dev/controlplane/internal/tool"
	"datapunk.dev/controlplane/watch"
)

// agent is a Consul in development mode that serves its own xDS.
type agent struct {
	*consulagent.Agent
	client *http.Client // of the API
	stop   func()
	w      world // what is registered
}

// manyConns is as many as the bench, one client to Consul, opens for a fleet.
const manyConns = 15000

// startAgent starts an agent, with the options that differ from one run to
// another.
func startAgent(ctx context.Context, o consulagent.Options) (*agent, error) {
	dir, err := os.MkdirTemp("", "bench-consul-")
	if err != nil {
		return nil, err
	}
	ports := &tool.Ports{}
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: makers}}
	o.Dir, o.Ports, o.Client, o.GRPC = dir, ports, client, true
	clean := func() {
		ports.Close()
		_ = os.RemoveAll(dir)
	}
	c, err := consulagent.Start(ctx, o)
	if err != nil {
		clean()
		return nil, err
	}
	return &agent{Agent: c, client: client, stop: func() {
		c.Kill()
		clean()
	}}, nil
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
	if w.Callers {
		for name, stream := range w.clients() {
			g.Go(func() error { return a.putCaller(name, stream) })
		}
	}
	return g.Wait()
}

// change makes the nth change of a service, of the world's kind.
func (a *agent) change(service, n int) error {
	switch a.w.Change {
	case "check":
		return a.setHealth(service, []string{"passing", "critical"}[n%2])
	case "instance":
		return a.join(service, n)
	}
	return a.move(service, n)
}

// move re-registers the first instance of a service with another port.
func (a *agent) move(service, n int) error { return a.put(service, 0, n) }

// put registers an instance on a node of its own, as the sidecars of both
// meshes want it: in Consul's it speaks mTLS itself (Connect native), in ours a
// sidecar listens on its mesh_port.
func (a *agent) put(s, k, n int) error {
	return a.registerInstance(serviceName(s), a.w.service(s, n).Instances[k], n > 0)
}

// join registers one more instance of a service, at its nth place.
func (a *agent) join(s, n int) error {
	in := a.w.service(s, n).Instances[0]
	in.ID += "-" + strconv.Itoa(n)
	return a.registerInstance(serviceName(s), in, false)
}

// putCaller registers the service of a stream.
func (a *agent) putCaller(name string, stream int) error {
	p := a.w.profile(stream)
	address, err := netip.ParseAddr(p.Address)
	if err != nil {
		return err
	}
	return a.registerInstance(name, &watch.Instance{ID: name, Address: address, MeshPort: p.MeshPort}, false)
}

func (a *agent) registerInstance(service string, in *watch.Instance, again bool) error {
	node := in.ID + "-node"
	_, err := a.API.Catalog().Register(&api.CatalogRegistration{
		Node: node, Address: in.Address.String(), SkipNodeUpdate: again,
		Service: &api.AgentService{
			ID: in.ID, Service: service, Address: in.Address.String(), Port: int(in.MeshPort),
			Meta:    map[string]string{"mesh_port": strconv.Itoa(int(in.MeshPort))},
			Connect: &api.AgentServiceConnect{Native: true},
			Weights: api.AgentWeights{Passing: 1, Warning: 1},
		},
		Check: &api.AgentCheck{Node: node, CheckID: "check:" + in.ID, Name: "up", Status: api.HealthPassing, ServiceID: in.ID, ServiceName: service},
	}, nil)
	return err
}

// setHealth changes the check of the first instance, and nothing else.
func (a *agent) setHealth(s int, status string) error {
	in := a.w.service(s, 0).Instances[0]
	_, err := a.API.Catalog().Register(&api.CatalogRegistration{
		Node: in.ID + "-node", Address: in.Address.String(), SkipNodeUpdate: true,
		Check: &api.AgentCheck{Node: in.ID + "-node", CheckID: "check:" + in.ID, Name: "up", Status: status, ServiceID: in.ID, ServiceName: serviceName(s)},
	}, nil)
	return err
}

// usage is the agent's.
func (a *agent) usage(string) (usage, error) { return processUsage(a.Pid()) }

// processUsage is the CPU of a process, to the hundredth of a second, and its memory.
func processUsage(pid int) (usage, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return usage{}, err
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	columns := strings.Fields(rest)
	if len(columns) < 22 {
		return usage{}, fmt.Errorf("/proc/%d/stat: %q", pid, stat)
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
	a, err := startAgent(ctx, consulagent.Options{MaxConns: manyConns})
	if err != nil {
		return nil, err
	}
	if err := errors.Join(a.register(w), a.registerSidecars(w)); err != nil {
		a.stop()
		return nil, err
	}
	return &subject{
		kind: "consul", xds: a.GRPC, creds: insecure.NewCredentials(), sidecars: true,
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
			_, err := a.API.Catalog().Register(&api.CatalogRegistration{
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
