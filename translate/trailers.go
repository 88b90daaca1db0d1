package translate

import (
	mutationv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	headermutationv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_mutation/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
)

// trailers takes out of trailers what must not be there. RFC 9110 section 6.5.1
// forbids what frames or routes a message; HTTP/2 has the next hop refuse the
// message for some of it, which HTTP/1 let pass. The last is the caller's
// identity, which an application that merges trailers into headers would take
// from anybody.
func trailers(d *builder) *hcmv3.HttpFilter {
	var remove []*mutationv3.HeaderMutation
	for _, name := range []string{
		"connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade",
		"content-length", "host", "expect",
		"x-forwarded-client-cert",
	} {
		remove = append(remove, &mutationv3.HeaderMutation{Action: &mutationv3.HeaderMutation_Remove{Remove: name}})
	}
	return &hcmv3.HttpFilter{
		Name: "envoy.filters.http.header_mutation",
		ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: d.pack(&headermutationv3.HeaderMutation{
			Mutations: &headermutationv3.Mutations{RequestTrailersMutations: remove, ResponseTrailersMutations: remove},
		})},
	}
}
