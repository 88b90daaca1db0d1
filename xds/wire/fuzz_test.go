package wire

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	corepb "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/proto"

	"datapunk.dev/controlplane/resource"
)

// What a client sends is read without the generated messages. Both must see
// the same in it, and neither may fail where the other does not.
func FuzzDeltaRequest(f *testing.F) {
	seed, err := proto.Marshal(&discovery.DeltaDiscoveryRequest{
		Node:                     &corepb.Node{Id: "nexus-1", Cluster: "nexus", UserAgentName: "envoy", Locality: &corepb.Locality{Zone: "a"}},
		TypeUrl:                  resource.Cluster.URL(),
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
			_ = NewRequest(Delta, nil).unmarshal(b)
			return
		}
		got := NewRequest(Delta, nil)
		if err := got.unmarshal(b); err != nil {
			names := slices.Concat(want.ResourceNamesSubscribe, want.ResourceNamesUnsubscribe, slices.Collect(maps.Keys(want.InitialResourceVersions)))
			mayRefuse(t, err, names, want)
			return
		}
		if got.TypeURL != want.TypeUrl || got.Nonce != want.ResponseNonce || got.Nack != (want.ErrorDetail != nil) ||
			got.All != slices.Contains(want.ResourceNamesSubscribe, Wildcard) || len(got.Unsubscribe) != len(want.ResourceNamesUnsubscribe) ||
			len(got.Initial) != len(want.InitialResourceVersions) || (got.Node != nil) != (want.Node != nil) {
			t.Fatalf("got %+v, want %v", got, want)
		}
		if names := unstarred(want.ResourceNamesSubscribe); !slices.Equal(got.Names, names) {
			t.Fatalf("names %q, want %q", got.Names, names)
		}
		// A list that is known is read as the set of it.
		again := NewRequest(Delta, NewNameSets())
		set := again.sets.Of(got.Names)
		if err := again.unmarshal(b); err != nil || again.All != got.All || again.Set != set && len(got.Names) > 0 {
			t.Fatalf("%v: %+v, want the set %v", err, again, set)
		}
		if got.Node != nil {
			_ = got.Node.Profile()
		}
	})
}

// mayRefuse fails the test unless a message was refused for one of the bounds, an empty
// name, or a second node, which the generated messages merge with the first.
func mayRefuse(t *testing.T, err error, names []string, want proto.Message) {
	t.Helper()
	empty := strings.HasSuffix(err.Error(), "an empty name") && slices.Contains(names, "")
	if !errors.Is(err, ErrTooMuch) && !empty && !strings.HasSuffix(err.Error(), "a second node") {
		t.Fatalf("%v: %v", err, want)
	}
}

func unstarred(names []string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(n string) bool { return n == Wildcard })
}

func FuzzSotwRequest(f *testing.F) {
	seed, err := proto.Marshal(&discovery.DiscoveryRequest{
		Node: &corepb.Node{Id: "nexus-1"}, TypeUrl: resource.Cluster.URL(), ResourceNames: []string{"a"}, VersionInfo: "1", ResponseNonce: "7",
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Fuzz(func(t *testing.T, b []byte) {
		want := &discovery.DiscoveryRequest{}
		got := NewRequest(SotW, nil)
		err := got.unmarshal(b)
		if proto.Unmarshal(b, want) != nil {
			return
		}
		if err != nil {
			mayRefuse(t, err, want.ResourceNames, want)
			return
		}
		if got.TypeURL != want.TypeUrl || got.Nonce != want.ResponseNonce || got.Version != want.VersionInfo ||
			!slices.Equal(got.Names, unstarred(want.ResourceNames)) {
			t.Fatalf("got %+v, want %v", got, want)
		}
	})
}
