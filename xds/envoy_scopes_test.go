//go:build component

package xds

import (
	"net/http"
	"strconv"
	"testing"
	"time"

	listenerpb "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routepb "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	routerpb "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmpb "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"

	"datapunk.dev/controlplane/resource"
)

// scopedListener is that of httpListener, with a route configuration a host.
func scopedListener(port int) *resource.Resource {
	type extractor = hcmpb.ScopedRoutes_ScopeKeyBuilder_FragmentBuilder_HeaderValueExtractor
	return encode(lds, "outbound", "scoped", &listenerpb.Listener{
		Name:    "outbound",
		Address: address(port),
		FilterChains: []*listenerpb.FilterChain{{Filters: []*listenerpb.Filter{{
			Name: "envoy.filters.network.http_connection_manager",
			ConfigType: &listenerpb.Filter_TypedConfig{TypedConfig: pack(&hcmpb.HttpConnectionManager{
				StatPrefix: "outbound",
				RouteSpecifier: &hcmpb.HttpConnectionManager_ScopedRoutes{ScopedRoutes: &hcmpb.ScopedRoutes{
					Name: "outbound", RdsConfigSource: ads,
					ScopeKeyBuilder: &hcmpb.ScopedRoutes_ScopeKeyBuilder{Fragments: []*hcmpb.ScopedRoutes_ScopeKeyBuilder_FragmentBuilder{{
						Type: &hcmpb.ScopedRoutes_ScopeKeyBuilder_FragmentBuilder_HeaderValueExtractor_{HeaderValueExtractor: &extractor{
							Name: ":authority", ElementSeparator: ":", ExtractType: &hcmpb.ScopedRoutes_ScopeKeyBuilder_FragmentBuilder_HeaderValueExtractor_Index{},
						}},
					}}},
					ConfigSpecifier: &hcmpb.ScopedRoutes_ScopedRds{ScopedRds: &hcmpb.ScopedRds{ScopedRdsConfigSource: ads}},
				}},
				HttpFilters: []*hcmpb.HttpFilter{{
					Name:       "envoy.filters.http.router",
					ConfigType: &hcmpb.HttpFilter_TypedConfig{TypedConfig: pack(&routerpb.Router{})},
				}},
			})},
		}}}},
	})
}

// scopeOf leads a host to its route configuration.
func scopeOf(host string) *resource.Resource {
	return encode(resource.ScopedRoute, host, "1", &routepb.ScopedRouteConfiguration{
		Name: host, RouteConfigurationName: "outbound/" + host,
		Key: &routepb.ScopedRouteConfiguration_Key{Fragments: []*routepb.ScopedRouteConfiguration_Key_Fragment{{
			Type: &routepb.ScopedRouteConfiguration_Key_Fragment_StringKey{StringKey: host},
		}}},
	}, rds.Ref("outbound/"+host))
}

// routesOf is a host's route configuration, which leads all to a cluster. One
// that leads to none has two hosts of one domain, which Envoy refuses.
func routesOf(host, version, cluster string) *resource.Resource {
	c := &routepb.RouteConfiguration{Name: "outbound/" + host}
	lead := func(name string) {
		c.VirtualHosts = append(c.VirtualHosts, &routepb.VirtualHost{Name: name, Domains: []string{"*"}, Routes: []*routepb.Route{{
			Match:  &routepb.RouteMatch{PathSpecifier: &routepb.RouteMatch_Prefix{Prefix: "/"}},
			Action: &routepb.Route_Route{Route: &routepb.RouteAction{ClusterSpecifier: &routepb.RouteAction_Cluster{Cluster: cluster}}},
		}}})
	}
	if cluster == "" {
		cluster = "a"
		lead("twice")
	}
	lead("all")
	return encode(rds, c.Name, version, c, cds.Ref(cluster))
}

// ask asks for a host.
func (e *envoy) ask(host string) int {
	r, err := http.NewRequest(http.MethodGet, "http://127.0.0.1:"+strconv.Itoa(e.port)+"/", nil)
	if err != nil {
		return 0
	}
	r.Host = host
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0
	}
	_ = response.Body.Close()
	return response.StatusCode
}

// The move from one route configuration to one for each host costs a running
// Envoy no request. From then on what is refused, or goes, is one host's alone.
func TestEnvoyScopedRoutes(t *testing.T) {
	for _, p := range []protocol{delta, sotw} {
		t.Run(p.String(), func(t *testing.T) {
			e := startEnvoy(t, p)
			e.wantSynced(t)
			load := e.underLoad() // which asks for the host 127.0.0.1
			e.put(scopedListener(e.port), scopeOf("127.0.0.1"), scopeOf("web"), routesOf("127.0.0.1", "1", "a"), routesOf("web", "1", "a")).
				remove(rds, "outbound").publish()
			e.eventually(t, "web answers", func() bool { return e.ask("web") == http.StatusOK })
			e.wantSynced(t)
			time.Sleep(time.Second)
			load.wantNoFailure(t)

			load = e.underLoad()
			e.put(edsCluster("b", "1", time.Second), e.assignment("b", "2"), scopeOf("more"), routesOf("more", "1", "b")).publish()
			e.eventually(t, "a host more answers", func() bool { return e.ask("more") == http.StatusOK })
			e.remove(resource.ScopedRoute, "more").remove(rds, "outbound/more").remove(cds, "b").remove(eds, "b").publish()
			e.eventually(t, "it is gone", func() bool { return e.ask("more") == http.StatusNotFound })
			e.wantSynced(t)

			e.put(routesOf("web", "bad", ""), scopeOf("good"), routesOf("good", "1", "a")).publish()
			e.eventually(t, "the refusal names it", func() bool {
				r := e.status().Types["route"]
				return r.State == Rejected && r.LastNack.Resource == "outbound/web"
			})
			e.eventually(t, "the other of that response is there", func() bool { return e.ask("good") == http.StatusOK })
			if code := e.ask("web"); code != http.StatusOK {
				t.Errorf("web has not kept its routes: %d", code)
			}
			e.put(routesOf("web", "2", "a")).publish()
			e.wantSynced(t)
			load.wantNoFailure(t)
		})
	}
}

// A route configuration that the fleet has refused, and of which there never was
// a good one, keeps no listener of a new Envoy from opening its port.
func TestEnvoyWithoutGoodRoutesOfOneHost(t *testing.T) {
	for _, p := range []protocol{delta, sotw} {
		t.Run(p.String(), func(t *testing.T) {
			e := startThree(t, p)
			e.put(scopedListener(e.port), scopeOf("127.0.0.1"), routesOf("127.0.0.1", "1", "a"), scopeOf("web"), routesOf("web", "bad", "")).publish()
			e.eventually(t, "in quarantine", func() bool { return len(e.server.Quarantines()) == 1 })
			other := &envoy{world: e.world, address: e.address, port: e.port}
			other.run(t, p, "nexus-4")
			e.eventually(t, "the fourth has its listener", func() bool {
				for _, proxy := range e.server.Proxies() {
					if proxy.Node == "nexus-4" {
						return proxy.Types["listener"].State == Synced && proxy.Types["route"].State == Synced && proxy.Types["route"].LastNack == nil
					}
				}
				return false
			})
			if code := e.ask("127.0.0.1"); code != http.StatusOK {
				t.Errorf("the good host answers %d", code)
			}
			if code := e.ask("web"); code != http.StatusNotFound {
				t.Errorf("the bad one answers %d", code)
			}
		})
	}
}
