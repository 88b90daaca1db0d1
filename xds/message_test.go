package xds

import (
	corepb "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"datapunk.dev/controlplane/resource"
)

// Messages that real clients take, where those of [res] say no more than a name
// and a version.

func encode(t resource.Type, name, version string, m proto.Message, refs ...resource.Ref) *resource.Resource {
	body, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		panic(err)
	}
	return &resource.Resource{Type: t, Name: name, Version: version, Body: body, Refs: refs}
}

func pack(m proto.Message) *anypb.Any {
	a, err := anypb.New(m)
	if err != nil {
		panic(err)
	}
	return a
}

var ads = &corepb.ConfigSource{
	ResourceApiVersion:    corepb.ApiVersion_V3,
	ConfigSourceSpecifier: &corepb.ConfigSource_Ads{Ads: &corepb.AggregatedConfigSource{}},
}

func address(port int) *corepb.Address {
	return &corepb.Address{Address: &corepb.Address_SocketAddress{SocketAddress: &corepb.SocketAddress{
		Address: "127.0.0.1", PortSpecifier: &corepb.SocketAddress_PortValue{PortValue: uint32(port)},
	}}}
}
