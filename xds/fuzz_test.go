package xds

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	tlspb "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// What lies on disk as refusals is taken whole or not at all; what was taken is
// kept again as it was.
func FuzzRecall(f *testing.F) {
	f.Add([]byte(`{"quarantined":[{"kind":0,"type":"cluster","name":"a","version":"2","depends":"0","message":"no","since":"2026-01-01T00:00:00Z","instead":["1"]}],
		"refused":[{"node":"n","kind":0,"type":"cluster","name":"a","version":"2","depends":"0","before":"1","nack":{"message":"no"}}],
		"contents":[{"type":"cluster","name":"a","version":"1","refs":[{"type":"endpoint","name":"a"}],"body":"AA=="}]}`))
	f.Add([]byte(`{"refused":[{"nack":null}]}`))
	f.Add([]byte(`null`))
	f.Add([]byte(`{"quarantined":[null],"contents":[null]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s := testServer()
		if err := s.Recall(data); err != nil {
			if q := s.Quarantines(); len(q) != 0 {
				t.Errorf("%d are in quarantine after %v", len(q), err)
			}
			return
		}
		first, err := s.Refusals()
		if err != nil {
			t.Fatal(err)
		}
		again := testServer()
		if err := again.Recall(first); err != nil {
			t.Fatalf("%v of\n%s", err, first)
		}
		if second, err := again.Refusals(); err != nil || string(second) != string(first) {
			t.Errorf("kept again: %v\n%s\nwas\n%s", err, second, first)
		}
		// It is served from, too.
		w := newWorld(s, cluster("a", "2"), endpoint("a", "1"), listener("in", "1"))
		w.publish()
	})
}

// Whichever secrets a client asks for, and says that it has, in either protocol: it
// is sent its own, the roots and its callers, and no others.
func FuzzSecretNames(f *testing.F) {
	f.Add("default", "spiffe://datapunk/nexus", "", true)
	f.Add("callers/lake", "spiffe://datapunk/lake", "root.later.7", false)
	f.Add("*", "", "x", true)
	f.Add("spiffe://datapunk//nexus", "spiffe://datapunk/nexus/", "1", false)
	f.Add("ROOTCA", "callers/nexus", "r1", true)
	f.Fuzz(func(t *testing.T, one, two, version string, isDelta bool) {
		for _, name := range []string{one, two, version} {
			if strings.ToValidUTF8(name, "") != name {
				return // no message can have it
			}
		}
		synctest.Test(t, func(t *testing.T) {
			a := &authority{}
			w := newWorld(testServer(func(o *Options) {
				o.Issuer = a
				o.Authenticate = func(context.Context) (Credential, error) {
					return Credential{Service: "nexus", Node: "nexus-1", Expires: time.Now().Add(24 * time.Hour)}, nil
				}
			}), secret("ROOTCA", "r1"), secret("spiffe://datapunk", "r1"), secret("callers/nexus", "c1"), secret("callers/lake", "c1"), secret("key", "1"))
			for _, name := range []string{one, two} {
				if name != "" && !mayHave(name) {
					w.put(secret(name, "1")) // not even if it is in its view
				}
			}
			w.publish()
			c := openAny(t, w.server, isDelta, one, two, version)
			for _, name := range secretsOf(t, c.out, isDelta) {
				if !mayHave(name) {
					t.Errorf("it has the secret %q", name)
				}
			}
			c.close()
			synctest.Wait()
		})
	})
}

// openAny opens a stream that asks for two secrets and says which version of the
// first it has.
func openAny(t *testing.T, s *Server, isDelta bool, one, two, version string) *client {
	t.Helper()
	if isDelta {
		c := openDelta(t, s)
		c.reconnect(sds, []string{one, two}, one, version)
		return c.client
	}
	c := openSotw(t, s)
	c.send(&discovery.DiscoveryRequest{Node: c.takeNode(), TypeUrl: sds.URL(), ResourceNames: []string{one, two}, VersionInfo: version})
	return c.client
}

// secretsOf are the names of the secrets in what was sent.
func secretsOf(t *testing.T, sent <-chan []byte, isDelta bool) (names []string) {
	t.Helper()
	var bodies []*anypb.Any
	for len(sent) > 0 {
		if b := <-sent; isDelta {
			var m discovery.DeltaDiscoveryResponse
			if err := proto.Unmarshal(b, &m); err != nil {
				t.Fatal(err)
			}
			for _, r := range m.Resources {
				names = append(names, r.Name)
				bodies = append(bodies, r.Resource)
			}
		} else {
			var m discovery.DiscoveryResponse
			if err := proto.Unmarshal(b, &m); err != nil {
				t.Fatal(err)
			}
			bodies = append(bodies, m.Resources...)
		}
	}
	for _, body := range bodies {
		var secret tlspb.Secret
		if err := body.UnmarshalTo(&secret); err != nil {
			t.Fatal(err)
		}
		names = append(names, secret.Name)
	}
	return names
}

// mayHave is what a proxy of nexus may have, said without the rules of the server.
func mayHave(name string) bool {
	switch name {
	case "default", "ROOTCA", "callers/nexus":
		return true
	}
	domain, path, ok := strings.Cut(strings.TrimPrefix(name, "spiffe://"), "/")
	return strings.HasPrefix(name, "spiffe://") && (!ok || path == "nexus" && domain == "datapunk")
}
