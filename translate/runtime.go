package translate

import (
	runtimev3 "github.com/envoyproxy/go-control-plane/envoy/service/runtime/v3"
	"google.golang.org/protobuf/types/known/structpb"

	"datapunk.dev/controlplane/resource"
)

// runtimeLayer is the layer of runtime values that bootstraps have Envoy ask
// for. Nothing sets a value yet. It has to be there all the same: an Envoy that
// asks waits for its clusters until it is answered.
func runtimeLayer() (*resource.Resource, error) {
	var d builder
	return d.finish(resource.Runtime, resource.RuntimeMesh, &runtimev3.Runtime{
		Name: resource.RuntimeMesh, Layer: &structpb.Struct{},
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
