package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"datapunk.dev/controlplane/e2e/run"
	"datapunk.dev/controlplane/e2e/traffic"
	"datapunk.dev/controlplane/internal/tool"
)

// startTime bounds the start of all parts.
const startTime = 60 * time.Second

// instances are what the demo runs: each is an app, and `controlplane sidecar` beside
// it. A name that the sidecar is given, as is done here, is short to read.
var instances = []run.MachineSpec{
	{Service: "nexus", ID: "nexus-1", ChosenPorts: true, Flags: []string{"--node-id", "nexus-1", "--version", "1.4.2"}},
	{Service: "lake_service", ID: "lake-1", ChosenPorts: true, Flags: []string{"--node-id", "lake-1", "--version", "2.0.1"}},
	{Service: "lake_service", ID: "lake-2", ChosenPorts: true, Flags: []string{"--node-id", "lake-2", "--version", "2.1.0"}},
	{Service: "stream_service", ID: "stream-1", ChosenPorts: true, Flags: []string{"--node-id", "stream-1", "--version", "0.9.0"}},
}

// besideAFile has the connected proxies in a catalog that is a file. In Consul they
// are registered as the operators' own file says.
const besideAFile = "mesh: {discovery: {register: true}}\n"

// demo is a running demo.
type demo struct {
	screen  *screen
	options options
	dir     string
	began   time.Time

	mesh     *run.Mesh
	meshFile string
	machines map[string]*run.Machine // by id
	nexus    *run.Machine
	client   *traffic.Client  // of nexus's app
	load     *traffic.Running // in the background, from the first request to the end

	requests, failed int // of the load, during the script
}

// start starts every part, and says so.
func (d *demo) start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	d.screen.title("A mesh on this machine")

	d.meshFile = filepath.Join(d.dir, "mesh.yaml")
	seed, err := os.ReadFile(filepath.Join(tool.Root(), "configs", "mesh.yaml"))
	if err != nil {
		return err
	}
	if err := run.WriteFile(d.meshFile, string(seed)); err != nil {
		return err
	}

	files := []string{d.meshFile}
	if d.options.catalog == "file" {
		files = append(files, filepath.Join(d.dir, "register.yaml"))
		if err := run.WriteFile(files[1], besideAFile); err != nil {
			return err
		}
	}
	at := time.Now()
	d.mesh, err = run.NewMesh(ctx, run.MeshOptions{
		Binary: d.options.binary, Dir: d.dir, Files: files, Consul: d.options.catalog == "consul", Registers: true,
	})
	if err != nil {
		return err
	}
	if d.mesh.Consul != nil {
		d.screen.part("Consul", "agent with UI at http://"+d.mesh.Consul.HTTP, time.Since(at))
	} else {
		d.screen.part("catalog", "the file "+filepath.Join(d.dir, "catalog.yaml"), time.Since(at))
	}

	at = time.Now()
	if err := d.mesh.Plane.Start(); err != nil {
		return err
	}
	if err := d.mesh.Plane.WaitReady(ctx, startTime); err != nil {
		return err
	}
	d.screen.part("control plane", "xDS "+d.mesh.Plane.XDSAddress()+", admin http://"+d.mesh.Plane.AdminAddress(), time.Since(at))

	at = time.Now()
	d.machines = make(map[string]*run.Machine)
	for _, spec := range instances {
		c, err := d.mesh.NewMachine(ctx, spec)
		if err != nil {
			return err
		}
		d.machines[spec.ID] = c
		if err := c.Start(); err != nil {
			return err
		}
	}
	for _, c := range d.machines {
		if err := c.WaitReady(ctx); err != nil {
			return err
		}
	}
	d.nexus = d.machines["nexus-1"]
	if err := d.mesh.Plane.WaitSynced(ctx, startTime, slices.Sorted(maps.Keys(d.machines))...); err != nil {
		return err
	}
	d.screen.part("sidecars", fmt.Sprintf("%d of `controlplane sidecar`, each with an Envoy", len(instances)), time.Since(at))

	d.client = traffic.NewClient(d.nexus.Outbound())
	return d.firstTraffic(ctx)
}

// firstTraffic waits until nexus reaches every instance, and then keeps a load
// up to the end.
func (d *demo) firstTraffic(ctx context.Context) error {
	want := map[string][]string{"lake_service": {"lake-1", "lake-2"}, "stream_service": {"stream-1"}}
	for _, service := range slices.Sorted(maps.Keys(want)) {
		missing := slices.Clone(want[service])
		err := tool.Until(ctx, "nexus reaches "+service, startTime, func() error {
			resp, err := d.client.Get(ctx, service, "/")
			if err != nil {
				return err
			}
			if resp.Status != 200 {
				return errors.New(resp.String())
			}
			missing = slices.DeleteFunc(missing, func(id string) bool { return id == resp.Reply.Instance })
			if len(missing) > 0 {
				return fmt.Errorf("no answer of %v yet", missing)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	d.screen.part("first requests", "nexus to both lake_service and to stream_service", time.Since(d.began))
	d.load = traffic.Load{
		Addr: d.nexus.Outbound(), Request: traffic.Request{Host: "lake_service", Path: "/live"}, Rate: 100, Concurrency: 8,
	}.Start(context.WithoutCancel(ctx))
	return nil
}

// close stops everything.
func (d *demo) close() error {
	if d.load != nil {
		d.load.Stop()
	}
	if d.client != nil {
		d.client.Close()
	}
	if d.mesh == nil {
		return nil
	}
	d.screen.printf("\n  %s\n", d.screen.style(faint, "stopping …"))
	if err := d.mesh.Close(); err != nil {
		return err
	}
	d.screen.printf("  %s\n", d.screen.style(faint, "everything has stopped"))
	return nil
}

// show prints what the mesh looks like.
func (d *demo) show(ctx context.Context) error {
	d.screen.title("Proxies, as /api/v1/proxies says")
	if err := d.showProxies(); err != nil {
		return err
	}
	d.screen.title("Traffic through nexus's sidecar")
	if err := d.showTraffic(ctx); err != nil {
		return err
	}
	d.screen.title("Identities on both ends of a connection")
	return d.showIdentities(ctx)
}

func (d *demo) showProxies() error {
	proxies, err := d.mesh.Plane.Proxies()
	if err != nil {
		return err
	}
	types := []string{"cluster", "endpoint", "listener", "route", "secret"}
	header := append([]string{"PROXY", "SERVICE"}, types...)
	header = append(header, "certificate", "expires")
	var rows [][]string
	for _, node := range slices.Sorted(maps.Keys(proxies)) {
		p := proxies[node]
		row := []string{node, p.Service}
		for _, typ := range types {
			row = append(row, p.Types[typ].State)
		}
		serial, expires := "?", "?"
		if c := p.Certificate; c != nil {
			serial = short(c.Serial)
			if c.Expires != nil {
				expires = "in " + hours(time.Until(*c.Expires))
			}
		}
		rows = append(rows, append(row, serial, expires))
	}
	d.screen.table(header, rows)
	return nil
}

func (d *demo) showTraffic(ctx context.Context) error {
	var rows [][]string
	for _, service := range []string{"lake_service", "stream_service"} {
		r := traffic.Load{Addr: d.nexus.Outbound(), Request: traffic.Request{Host: service}, Requests: 200}.Do(ctx)
		if r.Failed() > 0 {
			return fmt.Errorf("traffic to %s: %s", service, r)
		}
		var served []string
		for _, id := range slices.Sorted(maps.Keys(r.Instances)) {
			served = append(served, fmt.Sprintf("%s %d", id, r.Instances[id]))
		}
		rows = append(rows, []string{
			"nexus → " + service, fmt.Sprint(r.Requests), fmt.Sprint(r.Requests - r.Failed()), strings.Join(served, ", "),
			r.Quantile(0.5).Round(10 * time.Microsecond).String(), r.Quantile(0.99).Round(10 * time.Microsecond).String(),
		})
	}
	d.screen.table([]string{"CALL", "requests", "successes", "served by", "p50", "p99"}, rows)
	return nil
}

// showIdentities asks both ends: the callee's sidecar says in
// x-forwarded-client-cert which certificate it showed (By) and saw (URI), and
// each Envoy shows its own.
func (d *demo) showIdentities(ctx context.Context) error {
	resp, err := d.client.Get(ctx, "lake_service", "/")
	if err != nil {
		return err
	}
	peers := clientCert(resp.Reply.Headers["x-forwarded-client-cert"])
	if peers["By"] == "" || peers["URI"] == "" {
		return fmt.Errorf("the app saw no peer: x-forwarded-client-cert %q", resp.Reply.Headers["x-forwarded-client-cert"])
	}
	d.screen.table([]string{"END", "SPIFFE ID", "seen by"}, [][]string{
		{"caller", peers["URI"], "the sidecar of " + resp.Reply.Instance},
		{"callee", peers["By"], "the sidecar of nexus-1, which takes no other"},
	})
	d.screen.printf("\n")
	var rows [][]string
	for _, id := range slices.Sorted(maps.Keys(d.machines)) {
		leaf, err := ownCertificate(d.machines[id])
		if err != nil {
			return err
		}
		rows = append(rows, []string{id, leaf.URI(), short(leaf.Serial), leaf.Expires.Local().Format("2 Jan 15:04:05")})
	}
	d.screen.table([]string{"ENVOY", "its certificate", "serial", "expires"}, rows)
	return nil
}

// ownCertificate returns the newest leaf that a machine's Envoy holds.
func ownCertificate(c *run.Machine) (run.Certificate, error) {
	leaves, _, err := c.Envoy.Certs()
	if err != nil {
		return run.Certificate{}, err
	}
	if len(leaves) == 0 {
		return run.Certificate{}, fmt.Errorf("%s holds no certificate", c.ID)
	}
	return slices.MaxFunc(leaves, func(a, b run.Certificate) int { return a.From.Compare(b.From) }), nil
}

// clientCert reads one element of x-forwarded-client-cert.
func clientCert(header string) map[string]string {
	out := make(map[string]string)
	for part := range strings.SplitSeq(header, ";") {
		if key, value, ok := strings.Cut(part, "="); ok {
			value = strings.Trim(value, `"`)
			if plain, err := url.PathUnescape(value); err == nil {
				value = plain
			}
			out[key] = value
		}
	}
	return out
}

// short shows enough of a serial number to tell two apart.
func short(serial string) string {
	if len(serial) > 12 {
		return serial[:12] + "…"
	}
	return serial
}

func hours(d time.Duration) string {
	if d < 2*time.Hour {
		return d.Round(time.Second).String()
	}
	return fmt.Sprintf("%.0f h", d.Hours())
}
