package main

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"datapunk.dev/controlplane/resource"
)

// survivors are proxies that outlive their server: each comes back when its stream ends,
// as an Envoy does, says what it has, asks for all clusters and for the endpoints of
// those, and keeps what it was given until something else is said.
type survivors struct {
	w     world
	nodes *fleet // who they say they are
	addr  string
	all   []*survivor

	ctx     context.Context
	stop    context.CancelFunc
	running sync.WaitGroup
	begin   chan struct{} // closed when they may connect

	responses atomic.Int64
	resources atomic.Int64 // in them
	bytes     atomic.Int64
	streams   atomic.Int64
	nacks     atomic.Int64
	removed   atomic.Int64 // clusters that were taken away, and assignments that were emptied
}

// survivor is one of them.
type survivor struct {
	of *survivors
	id int
	// refuses is the service whose assignments it rejects; -1: none.
	refuses atomic.Int64

	mu       sync.Mutex
	versions [resource.NumTypes]map[string]string
	places   map[int]int       // by service: the place of its first instance
	without  map[int]time.Time // services without an instance, that had one
	lacked   time.Duration     // how long services had none, of those that have one again
}

const (
	firstBackOff = 250 * time.Millisecond
	lastBackOff  = 5 * time.Second
)

// startSurvivors makes the proxies of a world. They connect when begin is closed.
func startSurvivors(s *subject, w world) *survivors {
	f := &survivors{w: w, nodes: &fleet{w: w, sidecars: s.sidecars}, addr: s.xds, begin: make(chan struct{})}
	f.ctx, f.stop = context.WithCancel(context.Background())
	for i := range w.Streams {
		p := &survivor{of: f, id: i, places: make(map[int]int), without: make(map[int]time.Time)}
		p.refuses.Store(-1)
		for t := range p.versions {
			p.versions[t] = make(map[string]string)
		}
		f.all = append(f.all, p)
		f.running.Go(p.live)
	}
	return f
}

func (f *survivors) end() {
	f.stop()
	f.running.Wait()
}

func (p *survivor) live() {
	f := p.of
	select {
	case <-f.begin:
	case <-f.ctx.Done():
		return
	}
	for failures := 0; f.ctx.Err() == nil; failures++ {
		if p.connected() {
			failures = 0
		}
		select {
		case <-f.ctx.Done():
		case <-time.After(rand.N(min(lastBackOff, firstBackOff<<min(failures, 6)))):
		}
	}
}

// connected is one stream to its end. It reports whether anything came on it.
func (p *survivor) connected() (heard bool) {
	f := p.of
	conn, err := grpc.NewClient("passthrough:///"+f.addr, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)))
	if err != nil {
		return false
	}
	defer func() { _ = conn.Close() }()
	stream, err := discovery.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(f.ctx)
	if err != nil {
		return false
	}
	f.streams.Add(1)
	hello := p.request(resource.Cluster) // of no names: all, as Envoy has it
	hello.Node = f.nodes.node(p.id)
	err = stream.Send(hello)
	if names := p.subscribed(); err == nil && len(names) > 0 {
		again := p.request(resource.Endpoint)
		again.ResourceNamesSubscribe = names
		err = stream.Send(again)
	}
	for err == nil {
		var r *discovery.DeltaDiscoveryResponse
		if r, err = stream.Recv(); err != nil {
			break
		}
		heard = true
		for _, answer := range p.take(r) {
			if err = stream.Send(answer); err != nil {
				break
			}
		}
	}
	return heard
}

// request is the first of a type on a stream: it says what the proxy has.
func (p *survivor) request(t resource.Type) *discovery.DeltaDiscoveryRequest {
	p.mu.Lock()
	defer p.mu.Unlock()
	has := make(map[string]string, len(p.versions[t]))
	for name, version := range p.versions[t] {
		has[name] = version
	}
	return &discovery.DeltaDiscoveryRequest{TypeUrl: t.URL(), InitialResourceVersions: has}
}

// subscribed are the clusters of services, by name.
func (p *survivor) subscribed() (names []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for name := range p.versions[resource.Cluster] {
		if serviceNumber([]byte(name)) >= 0 {
			names = append(names, name)
		}
	}
	return names
}

// take takes a response, and returns what is sent for it.
func (p *survivor) take(r *discovery.DeltaDiscoveryResponse) []*discovery.DeltaDiscoveryRequest {
	f := p.of
	f.responses.Add(1)
	f.resources.Add(int64(len(r.Resources)))
	answer := &discovery.DeltaDiscoveryRequest{TypeUrl: r.TypeUrl, ResponseNonce: r.Nonce}
	t, ok := resource.TypeOf(r.TypeUrl)
	if !ok {
		return []*discovery.DeltaDiscoveryRequest{answer}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	var asks []string
	for _, one := range r.Resources {
		f.bytes.Add(int64(len(one.GetResource().GetValue())))
		service := serviceNumber([]byte(one.Name))
		if t == resource.Endpoint && service >= 0 && int64(service) == p.refuses.Load() {
			// Envoy takes the rest of a response that it refuses.
			if answer.ErrorDetail == nil {
				f.nacks.Add(1)
				answer.ErrorDetail = &status.Status{Code: 3, Message: "no such thing"}
			}
			continue
		}
		_, had := p.versions[t][one.Name]
		p.versions[t][one.Name] = one.Version
		switch {
		case t == resource.Cluster && service >= 0 && !had:
			asks = append(asks, one.Name)
		case t == resource.Endpoint && service >= 0:
			p.has(service, place(one.Resource.Value))
		}
	}
	for _, name := range r.RemovedResources {
		delete(p.versions[t], name)
		if service := serviceNumber([]byte(name)); service >= 0 {
			p.has(service, -1)
			if t == resource.Cluster {
				delete(p.versions[resource.Endpoint], name)
			}
		}
	}
	answers := []*discovery.DeltaDiscoveryRequest{answer}
	if len(asks) > 0 {
		answers = append(answers, &discovery.DeltaDiscoveryRequest{TypeUrl: resource.Endpoint.URL(), ResourceNamesSubscribe: asks})
	}
	return answers
}

// has notes where the first instance of a service is; -1: it has none any more.
func (p *survivor) has(service, place int) {
	since, lacks := p.without[service]
	_, had := p.places[service]
	switch {
	case place < 0 && had && !lacks:
		p.without[service] = time.Now()
		p.of.removed.Add(1)
	case place >= 0 && lacks:
		p.lacked += time.Since(since)
		delete(p.without, service)
	}
	if place >= 0 {
		p.places[service] = place
	}
}

// behind is how many proxies lack a service, or do not have the first one's nth place.
func (f *survivors) behind(n int) (count int) {
	for _, p := range f.all {
		p.mu.Lock()
		if p.refuses.Load() < 0 && (len(p.places) < len(f.w.upstreams(p.id)) || len(p.without) > 0 || p.places[0] < n) {
			count++
		}
		p.mu.Unlock()
	}
	return count
}

// lacking is how long a service of a proxy had no instance, on average of all.
func (f *survivors) lacking() time.Duration {
	var sum time.Duration
	for _, p := range f.all {
		p.mu.Lock()
		sum += p.lacked
		for _, since := range p.without {
			sum += time.Since(since)
		}
		p.mu.Unlock()
	}
	return sum / time.Duration(len(f.all)*len(f.w.upstreams(0)))
}
