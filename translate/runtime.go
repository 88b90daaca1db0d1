package translate

import (
	runtimev3 "github.com/envoyproxy/go-control-plane/envoy/service/runtime/v3"
	"google.golang.org/protobuf/types/known/structpb"

	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/resource"
)

// runtimePrematureResets is twice the streams that a client may reset, in their
// first second and most of all that it opened, before Envoy cuts its connection.
const runtimePrematureResets = "overload.premature_reset_total_stream_count"

// runtimeLayer is the layer of runtime values that bootstraps have Envoy ask
// for: limits that Envoy has nowhere else, and what a listener that changed would drain
// for. An Envoy that asks waits for its clusters until it is answered.
func runtimeLayer(explained bool) (*resource.Resource, error) {
	var d builder
	fields := map[string]*structpb.Value{runtimePrematureResets: structpb.NewNumberValue(maxPrematureReset)}
	var keys []string
	if explained {
		fields[runtimeNamesPolicies] = structpb.NewNumberValue(100) // percent
		keys = []string{policy.KeyAuthorization}
	}
	return d.finish(resource.Runtime, resource.RuntimeMesh, &runtimev3.Runtime{Name: resource.RuntimeMesh, Layer: &structpb.Struct{Fields: fields}}, keys, nil)
}

// translateRuntime makes the layer, which all scopes share.
func (b *build) translateRuntime() {
	b.runtime = b.base.runtime
	explained := b.in.Mesh.Authorization.ExplainDenials
	if b.runtime != nil && (!b.meshChanged || b.base.mesh.Authorization.ExplainDenials == explained) {
		return
	}
	b.report("runtime", nil, nil)
	made, err := runtimeLayer(explained)
	if err != nil {
		b.report("runtime", []Held{{Type: resource.Runtime, Name: resource.RuntimeMesh, Cause: err.Error()}}, nil)
		return
	}
	b.runtime = become(b.runtime, made)
}
