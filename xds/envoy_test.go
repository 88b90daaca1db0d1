//go:build component

package xds

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	clusterpb "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corepb "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointpb "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerpb "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routepb "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	routerpb "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmpb "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"

	"datapunk.dev/controlplane/internal/tool"
	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/xds/wire"
)

// A real Envoy on the other end of the stream, delta and SotW.
func TestEnvoy(t *testing.T) {
	for _, p := range []protocol{delta, sotw} {
		t.Run(p.String(), func(t *testing.T) {
			e := startEnvoy(t, p)

			t.Run("is served, and acknowledges", func(t *testing.T) {
				e.wantSynced(t)
				if code, _ := e.get("/a"); code != http.StatusOK {
					t.Fatalf("/a answers %d", code)
				}
			})
			t.Run("a new cluster and its route arrive in order under load", func(t *testing.T) {
				load := e.underLoad()
				e.put(edsCluster("b", "1", time.Second), e.assignment("b", "1"), routesTo("2", "a", "b")).publish()
				e.wantSynced(t)
				if code, _ := e.get("/b"); code != http.StatusOK {
					t.Errorf("/b answers %d", code)
				}
				load.wantNoFailure(t)
			})
			t.Run("a changed cluster under load fails no request", func(t *testing.T) {
				load := e.underLoad()
				for i := range 5 {
					version := fmt.Sprint("changed", i)
					e.put(edsCluster("a", version, time.Duration(i+2)*time.Second)).publish()
					e.wantSynced(t)
				}
				load.wantNoFailure(t)
			})
			t.Run("a cluster removed with its route under load fails no request", func(t *testing.T) {
				load := e.underLoad()
				e.put(routesTo("3", "a")).remove(cds, "b").remove(eds, "b").publish()
				e.wantSynced(t)
				if code, _ := e.get("/b"); code != http.StatusNotFound {
					t.Errorf("/b answers %d", code)
				}
				load.wantNoFailure(t)
			})
			for _, bad := range []*resource.Resource{
				invalidCluster("bad", "1"), // kills the whole response
				refusedCluster("bad", "2"), // the rest is applied
			} {
				t.Run("a bad cluster among good ones is nacked alone, "+bad.Version, func(t *testing.T) {
					e.put(bad, edsCluster("c", bad.Version, time.Second), e.assignment("c", "1"), routesTo(bad.Version+"c", "a", "c")).publish()
					e.eventually(t, "REJECTED with its name", func() bool {
						ts := e.status().Types["cluster"]
						return ts.State == Rejected && ts.LastNack.Resource == "bad"
					})
					e.eventually(t, "/c answers", func() bool { code, _ := e.get("/c"); return code == http.StatusOK })
					nacks := testutil.ToFloat64(e.server.metrics.nacks.WithLabelValues("cluster"))
					time.Sleep(time.Second)
					if again := testutil.ToFloat64(e.server.metrics.nacks.WithLabelValues("cluster")); again != nacks {
						t.Errorf("a loop: %v NACKs became %v", nacks, again)
					}
					e.put(routesTo(bad.Version+"gone", "a")).remove(cds, "bad", "c").remove(eds, "c").publish()
					e.wantSynced(t)
				})
			}
			t.Run("a control plane that restarts fails no request and sends nothing again", func(t *testing.T) {
				load := e.underLoad()
				e.restart(t)
				e.eventually(t, "back", func() bool {
					p := e.server.Proxies()
					return len(p) == 1 && p[0].Types["route"].State != NotSent
				})
				time.Sleep(200 * time.Millisecond)
				e.wantSynced(t)
				load.wantNoFailure(t)
				if p == delta {
					if n := e.resources.Load(); n != 0 {
						t.Errorf("%d resources were sent again", n)
					}
				}
				e.put(routesTo("after", "a")).publish()
				e.wantSynced(t)
			})
		})
	}
}

// A fresh Envoy whose first clusters hold a bad one gets the good ones at once.
func TestEnvoyFirstClustersRejected(t *testing.T) {
	for _, p := range []protocol{delta, sotw} {
		t.Run(p.String(), func(t *testing.T) {
			e := startEnvoy(t, p, invalidCluster("bad", "1"))
			e.eventually(t, "/a answers", func() bool { code, _ := e.get("/a"); return code == http.StatusOK })
			e.eventually(t, "REJECTED with its name", func() bool {
				ts := e.status().Types["cluster"]
				return ts.State == Rejected && ts.LastNack.Resource == "bad"
			})
		})
	}
}

// Three Envoys refuse a changed cluster: all have the old one again, and a
// fourth that starts then has nothing to refuse.
func TestEnvoyQuarantine(t *testing.T) {
	for _, p := range []protocol{delta, sotw} {
		t.Run(p.String(), func(t *testing.T) {
			e := startThree(t, p)
			synced := func(n, quarantined int) func() bool {
				return func() bool {
					all := e.server.Proxies()
					for _, proxy := range all {
						for _, name := range []string{"cluster", "endpoint", "listener", "route"} {
							if proxy.Types[name].State != Synced {
								return false
							}
						}
						if len(proxy.Types["cluster"].Quarantined) != quarantined {
							return false
						}
					}
					return len(all) == n
				}
			}
			e.eventually(t, "three are SYNCED", synced(3, 0))
			load := e.underLoad()
			bad := refusedCluster("a", "bad")
			e.put(bad).publish()
			e.eventually(t, "SYNCED without it", synced(3, 1))
			e.run(t, p, "nexus-4")
			e.eventually(t, "SYNCED without it, the fourth too", synced(4, 1))
			load.wantNoFailure(t)
			for _, proxy := range e.server.Proxies() {
				if nack := proxy.Types["cluster"].LastNack; (nack == nil) != (proxy.Node == "nexus-4") {
					t.Errorf("%s: %+v", proxy.Node, nack)
				}
			}
			load = e.underLoad()
			e.put(edsCluster("a", "good", 2*time.Second)).publish()
			e.eventually(t, "SYNCED with other content", synced(4, 0))
			load.wantNoFailure(t)
		})
	}
}

// A fourth Envoy that starts after a restart of the control plane is sent what the
// others had before they refused something, and works with it.
func TestEnvoyThatIsNewAfterARestartIsNotSentWhatOthersRefused(t *testing.T) {
	for _, p := range []protocol{delta, sotw} {
		t.Run(p.String(), func(t *testing.T) {
			e := startThree(t, p)
			e.put(refusedCluster("a", "bad")).publish()
			e.eventually(t, "in quarantine", func() bool { return len(e.server.Quarantines()) == 1 })
			kept, err := e.server.Refusals()
			if err != nil {
				t.Fatal(err)
			}
			e.grpc.Stop()
			e.serveAfter(t, kept)
			e.run(t, p, "nexus-4")
			e.eventually(t, "the fourth has it all", func() bool {
				for _, proxy := range e.server.Proxies() {
					if proxy.Node != "nexus-4" {
						continue
					}
					c := proxy.Types["cluster"]
					if c.LastNack != nil {
						t.Fatalf("it refused something: %+v", c.LastNack)
					}
					return c.State == Synced && len(c.Quarantined) == 1 && proxy.Types["listener"].State == Synced && proxy.Types["route"].State == Synced
				}
				return false
			})
			e.underLoad().wantNoFailure(t)
		})
	}
}

// An Envoy that starts when one of its services gets its first instance by host name has
// a cluster replaced by one of another kind before the old one is warm. It is ready
// nevertheless.
func TestEnvoyInitializesWhileAClusterIsReplaced(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0") // it takes connections, and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = silent.Close() }()
	checked := edsClusterProto("slow", time.Second)
	checked.HealthChecks = []*corepb.HealthCheck{{
		Timeout: durationpb.New(3 * time.Second), Interval: durationpb.New(time.Minute),
		UnhealthyThreshold: wrapperspb.UInt32(1), HealthyThreshold: wrapperspb.UInt32(1),
		HealthChecker: &corepb.HealthCheck_HttpHealthCheck_{HttpHealthCheck: &corepb.HealthCheck_HttpHealthCheck{Path: "/"}},
	}}
	named := encode(cds, "slow", "2", &clusterpb.Cluster{
		Name: "slow", ConnectTimeout: durationpb.New(time.Second), ClusterDiscoveryType: &clusterpb.Cluster_Type{Type: clusterpb.Cluster_STRICT_DNS},
		LoadAssignment: &endpointpb.ClusterLoadAssignment{ClusterName: "slow", Endpoints: []*endpointpb.LocalityLbEndpoints{{LbEndpoints: []*endpointpb.LbEndpoint{{
			HostIdentifier: &endpointpb.LbEndpoint_Endpoint{Endpoint: &endpointpb.Endpoint{Address: &corepb.Address{Address: &corepb.Address_SocketAddress{
				SocketAddress: &corepb.SocketAddress{Address: "localhost", PortSpecifier: &corepb.SocketAddress_PortValue{PortValue: uint32(silent.Addr().(*net.TCPAddr).Port)}},
			}}}},
		}}}}},
	})
	for _, p := range []protocol{delta, sotw} {
		t.Run(p.String(), func(t *testing.T) {
			e := startEnvoy(t, p, encode(cds, "slow", "1", checked, eds.Ref("slow")), encode(eds, "slow", "1", &endpointpb.ClusterLoadAssignment{
				ClusterName: "slow",
				Endpoints: []*endpointpb.LocalityLbEndpoints{{LbEndpoints: []*endpointpb.LbEndpoint{{
					HostIdentifier: &endpointpb.LbEndpoint_Endpoint{Endpoint: &endpointpb.Endpoint{Address: address(silent.Addr().(*net.TCPAddr).Port)}},
				}}}},
			}))
			e.eventually(t, "it has the first clusters", func() bool { return e.status().Types["endpoint"].State == Synced })
			if state := e.status().Types["listener"].State; state != NotSent {
				t.Fatalf("it has its listeners already: %s", state)
			}
			e.put(named).remove(eds, "slow").publish()
			e.eventually(t, "/a answers", func() bool { code, _ := e.get("/a"); return code == http.StatusOK })
			e.wantSynced(t)
		})
	}
}

type envoy struct {
	*world
	grpc      *grpc.Server
	address   string
	port      int // of the listener
	app       net.Addr
	resources atomic.Int64 // sent since the last restart
}

func startEnvoy(t *testing.T, p protocol, more ...*resource.Resource) *envoy {
	t.Helper()
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") }))
	t.Cleanup(app.Close)
	e := &envoy{app: app.Listener.Addr(), port: freePort(t)}
	e.world = newWorld(testServer(), edsCluster("a", "1", time.Second), e.assignment("a", "1"), httpListener(e.port), routesTo("1", "a"))
	e.put(more...)
	e.serve(t)
	t.Cleanup(func() { e.grpc.Stop() })
	e.run(t, p, "nexus-1")
	return e
}

// startThree starts as many as it takes to prove content bad.
func startThree(t *testing.T, p protocol) *envoy {
	t.Helper()
	e := startEnvoy(t, p)
	e.run(t, p, "nexus-2")
	e.run(t, p, "nexus-3")
	e.eventually(t, "three are there", func() bool { return len(e.server.Proxies()) == 3 })
	return e
}

// run starts a process. Those of one envoy share the port of the listener.
func (e *envoy) run(t *testing.T, p protocol, node string) {
	t.Helper()
	apiType := "DELTA_GRPC"
	if p == sotw {
		apiType = "GRPC"
	}
	_, port, err := net.SplitHostPort(e.address)
	if err != nil {
		t.Fatal(err)
	}
	bootstrap := fmt.Sprintf(`
node: {id: %s, cluster: nexus}
dynamic_resources:
  ads_config:
    api_type: %s
    transport_api_version: V3
    set_node_on_first_message_only: true
    grpc_services: [{envoy_grpc: {cluster_name: xds, retry_policy: {retry_back_off: {base_interval: 0.1s, max_interval: 0.5s}}}}]
  cds_config: {ads: {}, resource_api_version: V3, initial_fetch_timeout: 0s}
  lds_config: {ads: {}, resource_api_version: V3, initial_fetch_timeout: 0s}
static_resources:
  clusters:
  - name: xds
    connect_timeout: 1s
    type: STATIC
    load_assignment:
      cluster_name: xds
      endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: %s}}}}]}]
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        '@type': type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}
`, node, apiType, port)
	path := filepath.Join(t.TempDir(), "bootstrap.yaml")
	if err := os.WriteFile(path, []byte(bootstrap), 0o600); err != nil {
		t.Fatal(err)
	}
	binary, err := tool.Find("envoy")
	if err != nil {
		t.Fatal(err)
	}
	process, err := tool.Start(tool.Command{Name: node, Path: binary, Args: []string{"-c", path, "-l", "warning", "--use-dynamic-base-id", "--concurrency", "1"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		process.Kill()
		if t.Failed() {
			t.Logf("Envoy %s:\n%s", node, process.Log)
		}
	})
}

// serve starts a server with the world on the address of the last one.
func (e *envoy) serve(t *testing.T) {
	t.Helper()
	e.serveAfter(t, nil)
}

// serveAfter is serve with what an earlier process kept of refusals.
func (e *envoy) serveAfter(t *testing.T, kept []byte) {
	t.Helper()
	e.server = testServer()
	if kept != nil {
		if err := e.server.Recall(kept); err != nil {
			t.Fatal(err)
		}
	}
	e.publish()
	e.resources.Store(0)
	e.grpc = grpc.NewServer(append(e.server.ServerOptions(), grpc.StreamInterceptor(e.count))...)
	e.server.Register(e.grpc)
	address := e.address
	if address == "" {
		address = "127.0.0.1:0"
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	e.address = l.Addr().String()
	go func() { _ = e.grpc.Serve(l) }()
}

func (e *envoy) restart(t *testing.T) {
	t.Helper()
	e.grpc.Stop()
	e.serve(t)
}

// count counts the resources of the responses.
func (e *envoy) count(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	return handler(srv, &counted{ss, e})
}

type counted struct {
	grpc.ServerStream
	envoy *envoy
}

func (c *counted) SendMsg(m any) error {
	data, err := wire.NewCodec().Marshal(m)
	if err != nil {
		return err
	}
	for _, b := range data {
		c.envoy.resources.Add(int64(bytes.Count(b.ReadOnlyData(), []byte("type.googleapis.com/")) - 1))
	}
	return c.ServerStream.SendMsg(m)
}

func (e *envoy) status() ProxyStatus {
	if p := e.server.Proxies(); len(p) == 1 {
		return p[0]
	}
	return ProxyStatus{}
}

func (e *envoy) wantSynced(t *testing.T) {
	t.Helper()
	e.eventually(t, "SYNCED", func() bool {
		types := e.status().Types
		for _, name := range []string{"cluster", "endpoint", "listener", "route"} {
			if types[name].State != Synced {
				return false
			}
		}
		return true
	})
}

func (e *envoy) eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("never %s: %+v", what, e.status())
}

func (e *envoy) get(path string) (int, error) {
	response, err := http.Get("http://127.0.0.1:" + strconv.Itoa(e.port) + path)
	if err != nil {
		return 0, err
	}
	defer func() { _ = response.Body.Close() }()
	_, err = io.Copy(io.Discard, response.Body)
	return response.StatusCode, err
}

// load asks for /a all the time.
type load struct {
	stop           context.CancelFunc
	done           chan struct{}
	asked, refused int
}

// underLoad asks until wantNoFailure, and at least a few times.
func (e *envoy) underLoad() *load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{stop: cancel, done: make(chan struct{})}
	go func() {
		defer close(l.done)
		for ctx.Err() == nil || l.asked < 20 {
			l.asked++
			if code, err := e.get("/a"); code != http.StatusOK || err != nil {
				l.refused++
			}
		}
	}()
	return l
}

func (l *load) wantNoFailure(t *testing.T) {
	t.Helper()
	l.stop()
	<-l.done
	if l.refused > 0 || l.asked == 0 {
		t.Errorf("%d of %d requests failed", l.refused, l.asked)
	}
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).Port
}

func edsClusterProto(name string, connect time.Duration) *clusterpb.Cluster {
	return &clusterpb.Cluster{
		Name:                 name,
		ConnectTimeout:       durationpb.New(connect),
		ClusterDiscoveryType: &clusterpb.Cluster_Type{Type: clusterpb.Cluster_EDS},
		EdsClusterConfig:     &clusterpb.Cluster_EdsClusterConfig{EdsConfig: ads},
	}
}

func edsCluster(name, version string, connect time.Duration) *resource.Resource {
	return encode(cds, name, version, edsClusterProto(name, connect))
}

// invalidCluster breaks a constraint of the proto.
func invalidCluster(name, version string) *resource.Resource {
	return encode(cds, name, version, edsClusterProto(name, -time.Second))
}

// refusedCluster is one that only Envoy's constructor refuses.
func refusedCluster(name, version string) *resource.Resource {
	c := edsClusterProto(name, time.Second)
	c.OutlierDetection = &clusterpb.OutlierDetection{
		BaseEjectionTime: durationpb.New(time.Minute), MaxEjectionTime: durationpb.New(time.Second),
	}
	return encode(cds, name, version, c)
}

func (e *envoy) assignment(name, version string) *resource.Resource {
	a := e.app.(*net.TCPAddr)
	return encode(eds, name, version, &endpointpb.ClusterLoadAssignment{
		ClusterName: name,
		Endpoints: []*endpointpb.LocalityLbEndpoints{{LbEndpoints: []*endpointpb.LbEndpoint{{
			HostIdentifier: &endpointpb.LbEndpoint_Endpoint{Endpoint: &endpointpb.Endpoint{Address: address(a.Port)}},
		}}}},
	})
}

func httpListener(port int) *resource.Resource {
	return encode(lds, "outbound", "1", &listenerpb.Listener{
		Name:    "outbound",
		Address: address(port),
		FilterChains: []*listenerpb.FilterChain{{Filters: []*listenerpb.Filter{{
			Name: "envoy.filters.network.http_connection_manager",
			ConfigType: &listenerpb.Filter_TypedConfig{TypedConfig: pack(&hcmpb.HttpConnectionManager{
				StatPrefix: "outbound",
				RouteSpecifier: &hcmpb.HttpConnectionManager_Rds{Rds: &hcmpb.Rds{
					RouteConfigName: "outbound", ConfigSource: ads,
				}},
				HttpFilters: []*hcmpb.HttpFilter{{
					Name:       "envoy.filters.http.router",
					ConfigType: &hcmpb.HttpFilter_TypedConfig{TypedConfig: pack(&routerpb.Router{})},
				}},
			})},
		}}}},
	})
}

// routesTo returns a route configuration of /a to cluster a, and so on.
func routesTo(version string, clusters ...string) *resource.Resource {
	host := &routepb.VirtualHost{Name: "all", Domains: []string{"*"}}
	var refs []resource.Ref
	for _, c := range clusters {
		host.Routes = append(host.Routes, &routepb.Route{
			Match: &routepb.RouteMatch{PathSpecifier: &routepb.RouteMatch_Path{Path: "/" + c}},
			Action: &routepb.Route_Route{Route: &routepb.RouteAction{
				ClusterSpecifier: &routepb.RouteAction_Cluster{Cluster: c},
			}},
		})
		refs = append(refs, cds.Ref(c))
	}
	return encode(rds, "outbound", version, &routepb.RouteConfiguration{
		Name: "outbound", VirtualHosts: []*routepb.VirtualHost{host},
	}, refs...)
}
