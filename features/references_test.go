package features

import (
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"

	"datapunk.dev/controlplane/resource"
)

// references notes the secrets, route configurations and extensions that a message names,
// inside each Any too, and whether it wants scoped routes, which are asked for
// without names.
func references(m proto.Message, wanted map[resource.Type]map[string]bool) {
	switch m := m.(type) {
	case *tlsv3.SdsSecretConfig:
		wanted[resource.Secret][m.GetName()] = true
	case *hcmv3.Rds:
		wanted[resource.Route][m.GetRouteConfigName()] = true
	case *hcmv3.ScopedRds:
		wanted[resource.ScopedRoute][""] = true
	case *hcmv3.HttpFilter:
		if m.GetConfigDiscovery() != nil {
			wanted[resource.Extension][m.GetName()] = true
		}
	case *routev3.ScopedRouteConfiguration:
		wanted[resource.Route][m.GetRouteConfigurationName()] = true
	case *anypb.Any:
		if inner, err := m.UnmarshalNew(); err == nil {
			references(inner, wanted)
		}
		return
	case nil:
		return
	}
	m.ProtoReflect().Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.IsMap() && f.MapValue().Message() != nil:
			v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool {
				references(v.Message().Interface(), wanted)
				return true
			})
		case f.IsMap() || f.Message() == nil:
		case f.IsList():
			for i := range v.List().Len() {
				references(v.List().Get(i).Message().Interface(), wanted)
			}
		default:
			references(v.Message().Interface(), wanted)
		}
		return true
	})
}
