package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"github.com/hashicorp/consul/api"
	"google.golang.org/protobuf/proto"

	"datapunk.dev/controlplane/consul"
	"datapunk.dev/controlplane/internal/consulagent"
	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/sds"
	"datapunk.dev/controlplane/translate"
	"datapunk.dev/controlplane/watch"
	watchconsul "datapunk.dev/controlplane/watch/consul"
)

// The rooms by themselves, called in this process.

// cost is what one operation took, on average.
type cost struct {
	Title  string  `json:"title"`
	What   string  `json:"what"`
	Times  int     `json:"times"`
	CPU    float64 `json:"cpu_ms"`
	Allocs float64 `json:"allocs"`
	KB     float64 `json:"kb"` // allocated
}

// costOf runs an operation some times after a first one that does not count.
func costOf(what string, times int, do func(i int) error) (cost, error) {
	debug.FreeOSMemory() // what was before is not its cost
	if err := do(0); err != nil {
		return cost{}, err
	}
	before := used()
	for i := 1; i <= times; i++ {
		if err := do(i); err != nil {
			return cost{}, err
		}
	}
	after, each := used(), float64(times)
	return cost{
		What: what, Times: times, CPU: (after.CPU - before.CPU) * 1e3 / each,
		Allocs: float64(after.Mallocs-before.Mallocs) / each, KB: float64(after.Alloc-before.Alloc) / each / 1e3,
	}, nil
}

// translateCosts are those of a change of one endpoint, of a whole build and of
// an edit that touches one service, for meshes of these sizes and a fleet of a
// hundred profiles.
func translateCosts(worlds []world) (costs []cost, err error) {
	for _, w := range worlds {
		services := w.Services
		in := translate.Input{Catalog: w.catalog(), Roots: roots, Fleet: fleetOf(100)}
		var meshes [2]*policy.Mesh
		for i := range meshes {
			if meshes[i], err = w.retried(3 + i); err != nil {
				return nil, err
			}
		}
		in.Mesh = meshes[0]
		size := fmt.Sprintf("%d services of %d", services, w.Instances)
		if w.Traffic {
			size += ", " + nameOf(w)
		}
		full, err := costOf("all of "+size, max(1, 20_000/services), func(int) error {
			translate.Translate(nil, in)
			return nil
		})
		if err != nil {
			return nil, err
		}
		last := translate.Translate(nil, in)
		step := func() error {
			next := translate.Translate(last, in)
			if scopes, views := next.Changed(); len(scopes)+len(views) == 0 {
				return errors.New("nothing changed")
			}
			last = next
			return nil
		}
		endpoint, err := costOf("an endpoint, of "+size, 2000, func(i int) error {
			in.Catalog = in.Catalog.Update([]*watch.Service{w.service(services/2, i+1)}, nil)
			return step()
		})
		if err != nil {
			return nil, err
		}
		floor, err := encodingAlone(last, serviceName(services/2), size)
		if err != nil {
			return nil, err
		}
		edit, err := costOf("the retries of one, of "+size, 20, func(i int) error {
			in.Mesh = meshes[(i+1)%2]
			return step()
		})
		if err != nil {
			return nil, err
		}
		times := make(map[int]int)
		route, err := costOf("a route of one, of "+size, 20, func(i int) (err error) {
			times[w.changes(1)] = i + 1
			if in.Mesh, err = w.edited(times); err != nil {
				return err
			}
			return step()
		})
		if err != nil {
			return nil, err
		}
		costs = append(costs, full, endpoint, floor, edit, route)
	}
	return costs, nil
}

// encodingAlone is the floor of a change of one endpoint: the encoding of the
// assignment that it makes.
func encodingAlone(s *translate.Snapshot, service, size string) (cost, error) {
	var assignment endpointv3.ClusterLoadAssignment
	if err := proto.Unmarshal(see(s, roomProfile(0))[resource.Endpoint].Get(service).Body, &assignment); err != nil {
		return cost{}, err
	}
	return costOf("floor: encode its assignment, of "+size, 2000, func(int) error {
		_, err := proto.MarshalOptions{Deterministic: true}.Marshal(&assignment)
		return err
	})
}

// roomProfile is a proxy with an address of its own.
func roomProfile(i int) resource.Profile {
	return resource.Profile{
		Service: serviceName(i), Address: netip.AddrFrom4([4]byte{127, 2, byte(i >> 8), byte(i)}).String(),
		AppPort: 8080, MeshPort: 15008, OutboundPort: 15001,
	}
}

func fleetOf(n int) *resource.Fleet {
	profiles := make([]resource.Profile, n)
	for i := range profiles {
		profiles[i] = roomProfile(i)
	}
	return resource.NewFleet(profiles...)
}

// retried is the mesh file with an override for one service.
func (w world) retried(attempts int) (*policy.Mesh, error) {
	override := fmt.Sprintf("mesh:\n  services:\n    %s: {retry: {attempts: %d}}\n", serviceName(0), attempts)
	return w.parsed(nil, policy.File{Name: "edit.yaml", Data: []byte(override)})
}

// identityResult is what the certificates of a fleet cost.
type identityResult struct {
	Title   string  `json:"title"`
	Proxies int     `json:"proxies"`
	CPU     float64 `json:"cpu_s"`   // to issue one to each
	Floor   float64 `json:"floor_s"` // of as many bare keys and certificates
	// Peak is the most renewals that fall into one minute, when all proxies came
	// within one. It is that of the first generation, the least spread.
	Peak int `json:"peak_a_minute"`
}

// identity issues a certificate to each proxy. The time of day is made up: all
// come within a minute.
func identity(proxies int) (identityResult, error) {
	r := identityResult{Proxies: proxies}
	dir, err := os.MkdirTemp("", "bench-")
	if err != nil {
		return r, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	ca, _, err := sds.Open(dir, trustDomain)
	if err != nil {
		return r, err
	}
	now := time.Now()
	m, err := sds.NewManager(ca, sds.Options{Rotation: 24 * time.Hour, TTL: 48 * time.Hour, Now: func() time.Time { return now }})
	if err != nil {
		return r, err
	}
	before := used()
	minutes := make(map[int64]int)
	for i := range proxies {
		lease, err := m.Lease(serviceName(i), func() {})
		if err != nil {
			return r, err
		}
		certificate, err := lease.Certificate()
		if err != nil {
			return r, err
		}
		if _, err := certificate.Secret("certificate"); err != nil {
			return r, err
		}
		minute := lease.Info().RenewAt.Unix() / 60
		minutes[minute]++
		r.Peak = max(r.Peak, minutes[minute])
		now = now.Add(time.Minute / time.Duration(proxies))
	}
	r.CPU = used().CPU - before.CPU
	before = used()
	if err := bareCertificates(proxies); err != nil {
		return r, err
	}
	r.Floor = used().CPU - before.CPU
	return r, nil
}

// bareCertificates makes keys and has them signed, and does nothing else.
func bareCertificates(n int) error {
	authority, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	for range n {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return err
		}
		if _, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, authority); err != nil {
			return err
		}
	}
	return nil
}

// watchResult is what it takes to follow a Consul.
type watchResult struct {
	Title       string  `json:"title"`
	Mode        string  `json:"mode"`
	Services    int     `json:"services"`
	SyncWall    float64 `json:"sync_wall_s"`
	SyncCPU     float64 `json:"sync_cpu_s"`
	Connections int     `json:"connections"`
	TooMany     uint64  `json:"too_many"` // answers 429
	P50         float64 `json:"p50_ms"`   // from before the write to the catalog that has it
	P99         float64 `json:"p99_ms"`
	Floor       float64 `json:"floor_p50_ms"` // the same, to the answer of one bare blocking query
	Idle        float64 `json:"idle_percent"` // of a core, of the source
	BesideIdle  float64 `json:"consul_idle_percent"`
}

// catalogWatch follows a Consul with its default limits, by HTTP/1.1 or by
// HTTP/2, through changes of checks, and then for a while without any.
func catalogWatch(ctx context.Context, services, changes int, http2 bool, idle time.Duration) (watchResult, error) {
	r := watchResult{Services: services}
	cfg := consul.Config{}
	options := consulagent.Options{}
	if http2 {
		dir, err := os.MkdirTemp("", "bench-")
		if err != nil {
			return r, err
		}
		defer func() { _ = os.RemoveAll(dir) }()
		if options.CertFile, options.KeyFile, err = certificate(dir); err != nil {
			return r, err
		}
		cfg.Scheme, cfg.TLS.CAFile = "https", options.CertFile
	}
	a, err := startAgent(ctx, options)
	if err != nil {
		return r, err
	}
	defer a.stop()
	if err := a.register(world{Services: services, Instances: 2}); err != nil {
		return r, err
	}
	cfg.Address = a.HTTP
	if http2 {
		cfg.Address = a.HTTPS
	}

	var newest atomic.Pointer[watch.Catalog]
	news := make(chan struct{}, 1)
	client, err := consul.New(cfg)
	if err != nil {
		return r, err
	}
	defer client.Close()
	src, err := watchconsul.New(client, watchconsul.Config{}, watchconsul.Demand{MeshOnly: true}, slog.New(slog.DiscardHandler), func(c *watch.Catalog) {
		newest.Store(c)
		select {
		case news <- struct{}{}:
		default:
		}
	})
	if err != nil {
		return r, err
	}
	before, begin := used(), time.Now()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	running.Go(func() { _ = src.Run(ctx) })
	until := func(done func() bool) error {
		for !done() {
			select {
			case <-news:
			case <-ctx.Done():
				return fmt.Errorf("%w: %+v", ctx.Err(), src.Status())
			}
		}
		return nil
	}
	if err := until(func() bool { return newest.Load() != nil }); err != nil {
		return r, err
	}
	r.SyncWall, r.SyncCPU = time.Since(begin).Seconds(), used().CPU-before.CPU
	time.Sleep(settle)

	var latencies []float64
	for i := range changes {
		s := (i * services / changes) % services
		begin := time.Now()
		if err := a.setHealth(s, "critical"); err != nil {
			return r, err
		}
		err := until(func() bool { return newest.Load().Service(serviceName(s)).Instances[0].Health == watch.Critical })
		if err != nil {
			return r, err
		}
		latencies = append(latencies, ms(time.Since(begin)))
		time.Sleep(300 * time.Millisecond) // a crowd of changes would be limited to 4 reads a second
	}
	r.P50, r.P99 = percentile(latencies, 50), percentile(latencies, 99)

	if r.Floor, err = a.blockingQuery(ctx, services/2); err != nil {
		return r, err
	}

	usageBefore, err := a.usage(nothing)
	if err != nil {
		return r, err
	}
	before, begin = used(), time.Now()
	time.Sleep(idle)
	passed := time.Since(begin).Seconds()
	r.Idle = (used().CPU - before.CPU) / passed * 100
	usageAfter, err := a.usage(nothing)
	if err != nil {
		return r, err
	}
	r.BesideIdle = (usageAfter.CPU - usageBefore.CPU) / passed * 100
	a.client.CloseIdleConnections() // they are not the source's
	r.Connections, err = connectionsTo(cfg.Address)
	r.Mode, r.TooMany = src.Status().Mode, src.Stats().TooMany
	return r, err
}

// blockingQuery returns the median time from before a write to the answer of one
// query that waits for it.
func (a *agent) blockingQuery(ctx context.Context, service int) (float64, error) {
	var latencies []float64
	for i := range 20 {
		query := func(index uint64) (*api.QueryMeta, error) {
			_, meta, err := a.API.Health().Service(serviceName(service), "", false, (&api.QueryOptions{WaitIndex: index, AllowStale: true}).WithContext(ctx))
			return meta, err
		}
		meta, err := query(0)
		if err != nil {
			return 0, err
		}
		answered := make(chan error, 1)
		go func() {
			_, err := query(meta.LastIndex)
			answered <- err
		}()
		time.Sleep(settle / 5) // it waits by then
		begin := time.Now()
		if err := a.setHealth(service, []string{"passing", "critical"}[i%2]); err != nil {
			return 0, err
		}
		if err := <-answered; err != nil {
			return 0, err
		}
		latencies = append(latencies, ms(time.Since(begin)))
	}
	return percentile(latencies, 50), nil
}

// connectionsTo counts this machine's open connections to a port of its own.
func connectionsTo(addr string) (int, error) {
	tcp, err := net.ResolveTCPAddr("tcp", addr)
	if err != nil {
		return 0, err
	}
	table, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		return 0, err
	}
	const established = "01"
	n := 0
	for line := range strings.Lines(string(table)) {
		// sl local_address rem_address st ...
		if c := strings.Fields(line); len(c) > 3 && strings.HasSuffix(c[2], fmt.Sprintf(":%04X", tcp.Port)) && c[3] == established {
			n++
		}
	}
	return n, nil
}

// certificate writes a self-signed certificate for the loopback address.
func certificate(dir string) (certFile, keyFile string, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", "", err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return "", "", err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return "", "", err
	}
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	return certFile, keyFile, errors.Join(
		os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600),
		os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), 0o600),
	)
}
