package xds

import (
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	corepb "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
)

// What a client sends is read without the generated messages. Both must see
// the same in it, and neither may fail where the other does not.
func FuzzDeltaRequest(f *testing.F) {
	seed, err := proto.Marshal(&discovery.DeltaDiscoveryRequest{
		Node:                     &corepb.Node{Id: "nexus-1", Cluster: "nexus", UserAgentName: "envoy", Locality: &corepb.Locality{Zone: "a"}},
		TypeUrl:                  cds.URL(),
		ResourceNamesSubscribe:   []string{"a", "b"},
		ResourceNamesUnsubscribe: []string{"c"},
		InitialResourceVersions:  map[string]string{"a": "1"},
		ResponseNonce:            "7",
		ErrorDetail:              &rpcstatus.Status{Code: 13, Message: "no"},
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Fuzz(func(t *testing.T, b []byte) {
		want := &discovery.DeltaDiscoveryRequest{}
		if proto.Unmarshal(b, want) != nil {
			// Strings that are not UTF-8, for one, are nothing to us.
			_ = (&request{protocol: delta}).unmarshal(b)
			return
		}
		got := &request{protocol: delta}
		if err := got.unmarshal(b); err != nil {
			t.Fatalf("%v: %v", err, want)
		}
		if got.typeURL != want.TypeUrl || got.nonce != want.ResponseNonce || got.nack != (want.ErrorDetail != nil) ||
			got.all != slices.Contains(want.ResourceNamesSubscribe, wildcard) || len(got.unsubscribe) != len(want.ResourceNamesUnsubscribe) ||
			len(got.initial) != len(want.InitialResourceVersions) || (got.node != nil) != (want.Node != nil) {
			t.Fatalf("got %+v, want %v", got, want)
		}
		if names := unstarred(want.ResourceNamesSubscribe); !slices.Equal(got.names, names) {
			t.Fatalf("names %q, want %q", got.names, names)
		}
		// A list that is known is read as the set of it.
		again := &request{protocol: delta, sets: newNameSets()}
		set := again.sets.of(got.names)
		if err := again.unmarshal(b); err != nil || again.all != got.all || again.set != set && len(got.names) > 0 {
			t.Fatalf("%v: %+v, want the set %v", err, again, set)
		}
		if got.node != nil {
			_ = got.node.profile()
		}
	})
}

func unstarred(names []string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(n string) bool { return n == wildcard })
}

func FuzzSotwRequest(f *testing.F) {
	seed, err := proto.Marshal(&discovery.DiscoveryRequest{
		Node: &corepb.Node{Id: "nexus-1"}, TypeUrl: cds.URL(), ResourceNames: []string{"a"}, VersionInfo: "1", ResponseNonce: "7",
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Fuzz(func(t *testing.T, b []byte) {
		want := &discovery.DiscoveryRequest{}
		got := &request{protocol: sotw}
		err := got.unmarshal(b)
		if proto.Unmarshal(b, want) != nil {
			return
		}
		if err != nil {
			t.Fatalf("%v: %v", err, want)
		}
		if got.typeURL != want.TypeUrl || got.nonce != want.ResponseNonce || got.version != want.VersionInfo ||
			!slices.Equal(got.names, unstarred(want.ResourceNames)) {
			t.Fatalf("got %+v, want %v", got, want)
		}
	})
}
