package translate

import (
	runtimev3 "github.com/envoyproxy/go-control-plane/envoy/service/runtime/v3"
	"google.golang.org/protobuf/types/known/structpb"

	"datapunk.dev/controlplane/resource"
)

// runtimePrematureResets is twice the streams that a client may reset, in their
// first second and most of all that it opened, before Envoy cuts its connection.
const runtimePrematureResets = "overload.premature_reset_total_stream_count"

// runtimeLayer is the layer of runtime values that bootstraps have Envoy ask
// for: limits that Envoy has nowhere else. An Envoy that asks waits for its
// clusters until it is answered.
func runtimeLayer() (*resource.Resource, error) {
	var d builder
	return d.finish(resource.Runtime, resource.RuntimeMesh, &runtimev3.Runtime{
		Name: resource.RuntimeMesh, Layer: &structpb.Struct{Fields: map[string]*structpb.Value{
			runtimePrematureResets: structpb.NewNumberValue(maxPrematureReset),
		}},
	}, nil, nil)
}

// translateRuntime makes the layer once; all scopes share it.
func (b *build) translateRuntime() {
	b.runtime = b.base.runtime
	if b.runtime != nil {
		return
	}
	made, err := runtimeLayer()
	if err != nil {
		b.report("runtime", []Held{{Type: resource.Runtime, Name: resource.RuntimeMesh, Cause: err.Error()}}, nil)
		return
	}
	b.runtime = resource.NewSet(made)
}
