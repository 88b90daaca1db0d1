package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/structpb"

	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/sds/token"
)

// proxy is a client that speaks as an Envoy does, refuses a response now and then, and
// ends its stream after a minute or so.
type proxy struct {
	churn *churn
	node  *corev3.Node
	token string
	addr  string
	roots *x509.CertPool
}

func newProxy(ctx context.Context, c *churn, n int) (*proxy, error) {
	p := &proxy{churn: c, addr: c.mesh.Plane.XDSAddress(), roots: x509.NewCertPool()}
	service := fmt.Sprint("soak-", n%services)
	p.node = &corev3.Node{
		Id: fmt.Sprint("proxy-", n), Cluster: service, UserAgentName: "envoy",
		Metadata: &structpb.Struct{Fields: map[string]*structpb.Value{
			"address": structpb.NewStringValue("127.0.0.1"), "app_port": structpb.NewNumberValue(8080),
			"mesh_port": structpb.NewNumberValue(15008), "outbound_port": structpb.NewNumberValue(15001),
		}},
	}
	file := filepath.Join(c.mesh.Dir, p.node.Id+".yaml")
	if err := c.mesh.Token(ctx, service, p.node.Id, 24*time.Hour, file); err != nil {
		return nil, err
	}
	ca, err := os.ReadFile(c.mesh.Plane.CAFile())
	if err != nil {
		return nil, err
	}
	if !p.roots.AppendCertsFromPEM(ca) {
		return nil, errors.New("ca.pem has no certificate")
	}
	p.token, _, err = token.ReadFile(file)
	return p, err
}

// run opens one stream after the other.
func (p *proxy) run(ctx context.Context) {
	has := make(map[string]map[string]string) // versions by type and name
	for ctx.Err() == nil {
		stream, cancel := context.WithTimeout(ctx, 30*time.Second+rand.N(time.Minute))
		_ = p.stream(stream, has)
		cancel()
		p.churn.ends.Add(1)
		select {
		case <-ctx.Done():
		case <-time.After(rand.N(2 * time.Second)):
		}
	}
}

func (p *proxy) stream(ctx context.Context, has map[string]map[string]string) error {
	conn, err := grpc.NewClient("passthrough:///"+p.addr, grpc.WithNoProxy(), grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
		MinVersion: tls.VersionTLS13, RootCAs: p.roots, ServerName: "127.0.0.1",
	})))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	stream, err := discovery.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(
		metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+p.token))
	if err != nil {
		return err
	}
	for i, t := range []resource.Type{resource.Cluster, resource.Listener, resource.Secret} {
		r := &discovery.DeltaDiscoveryRequest{TypeUrl: t.URL(), InitialResourceVersions: has[t.URL()]}
		if i == 0 {
			r.Node = p.node
		}
		if t == resource.Secret {
			r.ResourceNamesSubscribe = []string{"default", "ROOTCA"}
		}
		if err := stream.Send(r); err != nil {
			return err
		}
	}
	asked := make(map[string]bool)
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		p.churn.responses.Add(1)
		answer := &discovery.DeltaDiscoveryRequest{TypeUrl: m.TypeUrl, ResponseNonce: m.Nonce}
		if rand.IntN(50) == 0 {
			p.churn.nack.Add(1)
			answer.ErrorDetail = &rpcstatus.Status{Code: 13, Message: fmt.Sprint("refused for the sake of it, ", rand.IntN(1000))}
		} else {
			p.takes(m, has)
		}
		if err := stream.Send(answer); err != nil {
			return err
		}
		if m.TypeUrl != resource.Cluster.URL() {
			continue
		}
		var names []string
		for _, r := range m.Resources {
			if !asked[r.Name] {
				asked[r.Name] = true
				names = append(names, r.Name)
			}
		}
		if len(names) > 0 {
			if err := stream.Send(&discovery.DeltaDiscoveryRequest{TypeUrl: resource.Endpoint.URL(), ResourceNamesSubscribe: names}); err != nil {
				return err
			}
		}
	}
}

// takes keeps what a response says, for the next stream.
func (p *proxy) takes(m *discovery.DeltaDiscoveryResponse, has map[string]map[string]string) {
	if has[m.TypeUrl] == nil {
		has[m.TypeUrl] = make(map[string]string)
	}
	for _, r := range m.Resources {
		has[m.TypeUrl][r.Name] = r.Version
		if m.TypeUrl == resource.Secret.URL() && r.Name == "default" {
			p.churn.certificates.Add(1)
		}
	}
	for _, name := range m.RemovedResources {
		delete(has[m.TypeUrl], name)
	}
}
