//go:build component

package main

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretservicev3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"
)

// What a client may cost that has shown a token, or somebody else's.

const endpointType = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"

// xdsStream is what ADS and the separate services have in common.
type xdsStream interface {
	Send(*discoveryv3.DiscoveryRequest) error
	Recv() (*discoveryv3.DiscoveryResponse, error)
}

// client is a host of this machine with a token.
type client struct {
	v    *victim
	conn *grpc.ClientConn
	node *corev3.Node
}

func (v *victim) client(from, node string) client {
	conn := v.dial(from, v.token(node))
	v.t.Cleanup(func() { _ = conn.Close() })
	return client{v, conn, &corev3.Node{Id: node, Cluster: "web"}}
}

// within bounds what a test waits for.
func (v *victim) within() context.Context {
	ctx, cancel := context.WithTimeout(v.t.Context(), 30*time.Second)
	v.t.Cleanup(cancel)
	return ctx
}

// ads and secrets open a stream.
func (c client) ads() xdsStream {
	s, err := discoveryv3.NewAggregatedDiscoveryServiceClient(c.conn).StreamAggregatedResources(c.v.within())
	if err != nil {
		c.v.t.Fatal(err)
	}
	return s
}

func (c client) secrets() xdsStream {
	s, err := secretservicev3.NewSecretDiscoveryServiceClient(c.conn).StreamSecrets(c.v.within())
	if err != nil {
		c.v.t.Fatal(err)
	}
	return s
}

// ask subscribes, and returns what comes.
func (c client) ask(s xdsStream, typeURL string, names ...string) error {
	_ = s.Send(&discoveryv3.DiscoveryRequest{Node: c.node, TypeUrl: typeURL, ResourceNames: names})
	_, err := s.Recv()
	return err
}

// streams waits until so many streams are open, no more and no fewer.
func (v *victim) streams(want int) {
	v.t.Helper()
	v.eventually(fmt.Sprintf("%d streams are open", want), func() bool { return v.metric("controlplane_xds_streams") == float64(want) })
}

// A stolen token shows, whatever service it is used on: the newest stream of a
// node.id ends those from elsewhere, and that is counted and logged.
func TestAStolenTokenShowsOnEveryService(t *testing.T) {
	for name, used := range map[string]struct {
		victim, thief func(client) xdsStream
	}{
		"ADS and ADS":         {client.ads, client.ads},
		"ADS and secrets":     {client.ads, client.secrets},
		"secrets and ADS":     {client.secrets, client.ads},
		"secrets and secrets": {client.secrets, client.secrets},
	} {
		t.Run(name, func(t *testing.T) {
			v := startVictim(t, 0)
			owner, thief := v.client("127.0.0.1", "web-1"), v.client("127.0.0.2", "web-1")
			theirs := used.victim(owner)
			if err := owner.ask(theirs, secretType, "default"); err != nil {
				t.Fatal(err)
			}
			stolen := used.thief(thief)
			if err := thief.ask(stolen, secretType, "default"); err != nil {
				t.Fatal(err)
			}
			if _, err := theirs.Recv(); status.Code(err) != codes.Aborted {
				t.Errorf("the owner's stream goes on: %v", err)
			}
			// The owner comes back, as an Envoy does.
			if err := owner.ask(used.victim(owner), secretType, "default"); err != nil {
				t.Error(err)
			}
			if _, err := stolen.Recv(); status.Code(err) != codes.Aborted {
				t.Errorf("the thief's stream goes on: %v", err)
			}
			if n := v.metric("controlplane_xds_superseded_streams_total"); n != 2 {
				t.Errorf("%v streams counted", n)
			}
			if log := v.log(); !strings.Contains(log, "a node.id came from another host") || !strings.Contains(log, "127.0.0.2") {
				t.Errorf("the log does not say so:\n%s", tail(log))
			}
		})
	}
}

// On one host the streams of one proxy are no rivals: ADS, the separate
// services, gRPC's own client and what fetches its certificate.
func TestTheStreamsOfOneHostAreNoRivals(t *testing.T) {
	v := startVictim(t, 0)
	one, other := v.client("127.0.0.1", "web-1"), v.client("127.0.0.1", "web-1")
	ads, secrets, files := one.ads(), one.secrets(), other.secrets()
	for _, s := range []struct {
		client
		xdsStream
		url, name string
	}{{one, ads, clusterType, "*"}, {one, secrets, secretType, "default"}, {other, files, secretType, "default"}} {
		if err := s.ask(s.xdsStream, s.url, s.name); err != nil {
			t.Fatal(err)
		}
	}
	v.streams(3)
	// A reconnect takes the place of ADS alone.
	if err := other.ask(other.ads(), clusterType); err != nil {
		t.Fatal(err)
	}
	if _, err := ads.Recv(); status.Code(err) != codes.Aborted {
		t.Errorf("the ADS stream before the reconnect: %v", err)
	}
	v.streams(3)

	grpcs := v.client("127.0.0.1", "web-2")
	grpcs.node.UserAgentName = "gRPC Go"
	for range 5 {
		if err := grpcs.ask(grpcs.ads(), secretType, "ROOTCA"); err != nil {
			t.Fatal(err)
		}
	}
	v.streams(8)
	if n := v.metric("controlplane_xds_superseded_streams_total"); n != 1 {
		t.Errorf("%v streams superseded, want the one of the reconnect", n)
	}
}

// Whatever a token is used for, a node.id has so many streams, names and
// profiles, and begins so many streams a second.
func TestCostOfATokenIsBounded(t *testing.T) {
	refused := func(v *victim, reason string) float64 {
		return v.metric(`controlplane_xds_refused_streams_total{reason="` + reason + `"}`)
	}
	t.Run("streams that subscribe to many names", func(t *testing.T) {
		v := startVictim(t, 0)
		names := make([]string, 200_000)
		v.attack("20 streams of 200,000 names", func() {
			c := v.client("127.0.0.1", "web-2")
			for stream := range 20 {
				for i := range names { // those that others ask for too cost less
					names[i] = fmt.Sprint("a-name-of-", stream, "-", i)
				}
				s, err := discoveryv3.NewAggregatedDiscoveryServiceClient(c.conn).DeltaAggregatedResources(v.within(), grpc.MaxCallRecvMsgSize(64<<20))
				if err != nil {
					continue
				}
				c.node.UserAgentName = "gRPC Go" // none takes the place of the one before it
				_ = s.Send(&discoveryv3.DeltaDiscoveryRequest{Node: c.node, TypeUrl: endpointType, ResourceNamesSubscribe: names})
				_, _ = s.Recv() // that there are none, or that it is too much
			}
			v.serves()
		}).bound(t, 400, 0)
		if n := refused(v, "limit"); n < 17 {
			t.Errorf("%v streams refused for their names", n)
		}
	})
	t.Run("streams", func(t *testing.T) {
		v := startVictim(t, 0)
		v.attack("2000 streams on 4 connections", func() {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			for range 4 {
				c := v.client("127.0.0.1", "web-2")
				for range 500 {
					one, stop := context.WithTimeout(ctx, time.Second)
					defer stop()
					if s, err := secretservicev3.NewSecretDiscoveryServiceClient(c.conn).StreamSecrets(one); err == nil {
						_ = s.Send(&discoveryv3.DiscoveryRequest{Node: c.node, TypeUrl: secretType, ResourceNames: []string{"default"}})
					}
				}
			}
			v.serves()
		}).bound(t, 150, 10*time.Second)
		if n := refused(v, "node_rate"); n < 1000 {
			t.Errorf("%v streams refused", n)
		}
	})
	t.Run("profiles", func(t *testing.T) {
		v := startVictim(t, 0)
		c := v.client("127.0.0.1", "web-2")
		var last error
		for i := range 10 {
			c.node.Metadata = &structpb.Struct{Fields: map[string]*structpb.Value{"mesh_port": structpb.NewNumberValue(float64(20000 + i))}}
			last = c.ask(c.secrets(), secretType, "ROOTCA")
		}
		if status.Code(last) != codes.ResourceExhausted {
			t.Errorf("the tenth profile: %v", last)
		}
		if n := refused(v, "node_profiles"); n != 6 {
			t.Errorf("%v streams refused", n)
		}
		v.serves()
	})
}

// In plaintext mode there are no certificates: a client that says it has one is
// told nothing of it, and its stream goes on.
func TestAPlaintextClientThatReportsACertificate(t *testing.T) {
	v := startVictimOf(t, strings.TrimSuffix(inFile, "}")+", security: {mtls: {enabled: false}}}", 0, "--xds-plaintext")
	conn, err := grpc.NewClient("passthrough:///"+v.xds, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	s, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(v.within())
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []*discoveryv3.DeltaDiscoveryRequest{
		{
			Node: &corev3.Node{Id: "web-1", Cluster: "web"}, TypeUrl: secretType,
			ResourceNamesSubscribe: []string{"default"}, InitialResourceVersions: map[string]string{"default": "root.1.2"},
		},
		{TypeUrl: clusterType},
	} {
		if err := s.Send(r); err != nil {
			t.Fatal(err)
		}
	}
	if m, err := s.Recv(); err != nil || m.TypeUrl != clusterType {
		t.Errorf("got %v, %v", m, err)
	}
	if n := v.metric("controlplane_xds_panics_total"); n != 0 {
		t.Errorf("%v panics", n)
	}
}
