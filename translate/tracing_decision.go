package translate

import (
	mutationv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	earlyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/http/early_header_mutation/header_mutation/v3"
	uuidv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/request_id/uuid/v3"
)

// Who begins a trace decides whether it is sampled; the rate of the mesh file is
// of traces that begin at a sidecar. Envoy decides for each request before a tracer
// sees it, by the rate of its route, and that decision stands against two of its
// own habits:
//
//   - What OpenTelemetry's traceparent says counts only if Envoy's dice agree: at a
//     rate of 0.1 nine of ten sampled traces would be cut. A request with
//     x-client-trace-id is not diced for, so each with a traceparent gets one.
//     (A sampler of the tracer's own would do too. It stands in the listener, and an
//     edit of the rate would drain that.)
//   - A decision is noted in x-request-id, if that is a UUID, and nothing is traced
//     whose id is of another form, as those of applications often are. So Envoy is
//     shown an id of its own, and the application's comes back at the router.
//
// Both headers are the listeners' own: the routes take them out again.
const (
	headerClientTrace = "x-client-trace-id"
	headerRequestID   = "x-request-id"
	headerGivenID     = "x-mesh-given-request-id"
)

// decideByParent sets up a listener whose requests are traced.
func decideByParent(d *builder, c *compiler, m *hcmv3.HttpConnectionManager) {
	if !c.traced {
		return
	}
	m.RequestIdExtension = &hcmv3.RequestIDExtension{TypedConfig: d.pack(&uuidv3.UuidRequestIdConfig{PackTraceReason: boolean(false)})}
	early := &earlyv3.HeaderMutation{Mutations: []*mutationv3.HeaderMutation{
		set(headerGivenID, "%REQ("+headerRequestID+")%", corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD),
		{Action: &mutationv3.HeaderMutation_Remove{Remove: headerRequestID}},
	}}
	if c.tracing.Provider != zipkin { // whose tracer goes by B3 and traceparent as they are
		early.Mutations = append(early.Mutations, set(headerClientTrace, "%REQ(traceparent)%", corev3.HeaderValueOption_ADD_IF_ABSENT))
	}
	m.EarlyHeaderMutationExtensions = []*corev3.TypedExtensionConfig{{
		Name: "envoy.http.early_header_mutation.header_mutation", TypedConfig: d.pack(early),
	}}
}

// set is nothing if the value is empty.
func set(name, value string, how corev3.HeaderValueOption_HeaderAppendAction) *mutationv3.HeaderMutation {
	return &mutationv3.HeaderMutation{Action: &mutationv3.HeaderMutation_Append{Append: headerOption(name, value, how)}}
}

func headerOption(name, value string, how corev3.HeaderValueOption_HeaderAppendAction) *corev3.HeaderValueOption {
	return &corev3.HeaderValueOption{Header: &corev3.HeaderValue{Key: name, Value: value}, AppendAction: how}
}

// givenID is what every route does with the headers of decideByParent. Where
// nothing is traced there are none.
func givenID() (add []*corev3.HeaderValueOption, remove []string) {
	return []*corev3.HeaderValueOption{
		headerOption(headerRequestID, "%REQ("+headerGivenID+")%", corev3.HeaderValueOption_OVERWRITE_IF_EXISTS),
	}, []string{headerGivenID, headerClientTrace}
}
