package translate

import (
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"

	"datapunk.dev/controlplane/resource"
)

// Each service has a route configuration of its own, so that an edit of its routes
// costs a proxy what it says, and one that an Envoy refuses takes no other with
// it. Scoped routes tell which of them a request is for, by its host.

// outboundRoutes names the route configuration of a service. No name of ours that
// is not a service's has a slash.
func outboundRoutes(service string) string { return "outbound/" + service }

// scopedRoutes have each request take the route configuration of its host,
// without the port. Hosts with a capital are lowered before: see lowerHost.
func scopedRoutes() *hcmv3.ScopedRoutes {
	type (
		fragment  = hcmv3.ScopedRoutes_ScopeKeyBuilder_FragmentBuilder
		extractor = hcmv3.ScopedRoutes_ScopeKeyBuilder_FragmentBuilder_HeaderValueExtractor
	)
	return &hcmv3.ScopedRoutes{
		Name: "outbound",
		ScopeKeyBuilder: &hcmv3.ScopedRoutes_ScopeKeyBuilder{Fragments: []*fragment{{
			Type: &hcmv3.ScopedRoutes_ScopeKeyBuilder_FragmentBuilder_HeaderValueExtractor_{HeaderValueExtractor: &extractor{
				Name:             ":authority",
				ElementSeparator: ":",
				ExtractType:      &hcmv3.ScopedRoutes_ScopeKeyBuilder_FragmentBuilder_HeaderValueExtractor_Index{Index: 0},
			}},
		}}},
		RdsConfigSource: adsUntilThere(),
		ConfigSpecifier: &hcmv3.ScopedRoutes_ScopedRds{ScopedRds: &hcmv3.ScopedRds{ScopedRdsConfigSource: adsUntilThere()}},
	}
}

// scopesOf lead the two names of a service to its routes.
func scopesOf(service string, keys []string) (made []*resource.Resource, err error) {
	for _, host := range []string{service, service + resource.HostSuffix} {
		var d builder
		r, err := d.finish(resource.ScopedRoute, host, &routev3.ScopedRouteConfiguration{
			Name:                   host,
			RouteConfigurationName: outboundRoutes(service),
			Key: &routev3.ScopedRouteConfiguration_Key{Fragments: []*routev3.ScopedRouteConfiguration_Key_Fragment{{
				Type: &routev3.ScopedRouteConfiguration_Key_Fragment_StringKey{StringKey: strings.ToLower(host)},
			}}},
		}, keys, []resource.Ref{resource.Route.Ref(outboundRoutes(service))})
		if err != nil {
			return nil, err
		}
		made = append(made, r)
	}
	return made, nil
}
