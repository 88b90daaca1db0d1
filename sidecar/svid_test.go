package sidecar

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/pem"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/sds"
	"datapunk.dev/controlplane/sds/identity"
	"datapunk.dev/controlplane/sds/token"
)

// sdsServer is as much of a control plane as hands out secrets.
type sdsServer struct {
	secretv3.UnimplementedSecretDiscoveryServiceServer
	tokens   *token.Authority
	answers  chan []*anypb.Any // sent one after the other
	requests chan *discoveryv3.DiscoveryRequest
}

func (s *sdsServer) StreamSecrets(stream secretv3.SecretDiscoveryService_StreamSecretsServer) error {
	raw, err := token.FromContext(stream.Context())
	if err != nil {
		return err
	}
	if _, err := s.tokens.Verify(raw); err != nil {
		return err
	}
	for {
		r, err := stream.Recv()
		if err != nil {
			return err
		}
		s.requests <- r
		select {
		case answer := <-s.answers:
			if answer == nil {
				return nil // the stream ends
			}
			if err := stream.Send(&discoveryv3.DiscoveryResponse{TypeUrl: resource.Secret.URL(), VersionInfo: "v", Nonce: "n", Resources: answer}); err != nil {
				return err
			}
		case <-stream.Context().Done():
			return nil
		}
	}
}

// secretOf is a new SVID as SDS has it.
func secretOf(t *testing.T, ca *sds.CA, service string) *tlsv3.Secret {
	t.Helper()
	m, err := sds.NewManager(ca, sds.Options{Rotation: day, TTL: 2 * day})
	if err != nil {
		t.Fatal(err)
	}
	lease, err := m.Lease(service, func() {})
	if err != nil {
		t.Fatal(err)
	}
	defer lease.Release()
	cert, err := lease.Certificate()
	if err != nil {
		t.Fatal(err)
	}
	body, err := cert.Secret(resource.SecretIdentity)
	if err != nil {
		t.Fatal(err)
	}
	secret := new(tlsv3.Secret)
	if err := proto.Unmarshal(body, secret); err != nil {
		t.Fatal(err)
	}
	return secret
}

// secretsOf are a new SVID and the roots, in a response.
func secretsOf(t *testing.T, ca *sds.CA, service string) []*anypb.Any {
	t.Helper()
	own, err := anypb.New(secretOf(t, ca, service))
	if err != nil {
		t.Fatal(err)
	}
	roots, err := anypb.New(&tlsv3.Secret{Name: resource.SecretRoots, Type: &tlsv3.Secret_ValidationContext{
		ValidationContext: &tlsv3.CertificateValidationContext{TrustedCa: &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: ca.Roots()}}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	return []*anypb.Any{own, roots}
}

// svidLoop runs a loop against such a server, and returns the directory.
func svidLoop(t *testing.T, ca *sds.CA, tokens *token.Authority, log *bytes.Buffer) (s *sdsServer, dir string) {
	t.Helper()
	s = &sdsServer{tokens: tokens, answers: make(chan []*anypb.Any, 10), requests: make(chan *discoveryv3.DiscoveryRequest, 10)}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(xdsTLS(t, ca))
	secretv3.RegisterSecretDiscoveryServiceServer(server, s)
	file := filepath.Join(t.TempDir(), "token")
	if err := token.WriteFile(file, mint(t, tokens, day)); err != nil {
		t.Fatal(err)
	}
	dir = filepath.Join(t.TempDir(), "svid")
	loop := &SVIDLoop{
		Addresses: []string{l.Addr().String()}, CAPEM: ca.Roots(), TokenFile: file, Dir: dir, Log: slog.New(slog.NewTextHandler(log, nil)),
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = server.Serve(l) })
	running.Go(func() {
		if err := loop.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); server.Stop(); running.Wait() })
	return s, dir
}

func (s *sdsServer) next(t *testing.T) *discoveryv3.DiscoveryRequest {
	t.Helper()
	select {
	case r := <-s.requests:
		return r
	case <-time.After(10 * time.Second):
		t.Fatal("no request came")
		return nil
	}
}

func readPair(t *testing.T, dir string) []byte {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, identity.SVIDFile), filepath.Join(dir, identity.SVIDKeyFile))
	if err != nil {
		t.Fatal(err)
	}
	return pair.Certificate[0]
}

func TestAClientWithoutAnEnvoyHasItsSVIDInFiles(t *testing.T) {
	ca, tokens := open(t)
	var log bytes.Buffer
	s, dir := svidLoop(t, ca, tokens, &log)

	r := s.next(t)
	if n := r.GetNode(); n.GetId() != "web-1" || n.GetCluster() != "web" {
		t.Errorf("node %v is not the token's", n)
	}
	s.answers <- secretsOf(t, ca, "web")
	if r := s.next(t); r.GetErrorDetail() != nil || r.GetVersionInfo() != "v" || r.GetResponseNonce() != "n" {
		t.Errorf("not acknowledged: %v", r)
	}
	first := readPair(t, dir)
	if roots, err := os.ReadFile(filepath.Join(dir, identity.BundleFile)); err != nil || !bytes.Equal(roots, ca.Roots()) {
		t.Errorf("the bundle: %v", err)
	}
	for _, name := range []string{identity.SVIDFile, identity.SVIDKeyFile, identity.BundleFile} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, %v", name, info.Mode(), err)
		}
	}

	// What is no certificate of its own changes nothing, and is refused.
	for _, bad := range [][]*anypb.Any{secretsOf(t, ca, "other"), {{TypeUrl: resource.Secret.URL(), Value: []byte("\xff")}}} {
		s.answers <- bad
		if r := s.next(t); r.GetErrorDetail() == nil {
			t.Errorf("acknowledged: %v", r)
		}
		if !bytes.Equal(readPair(t, dir), first) {
			t.Error("the files changed")
		}
	}

	// A renewal comes alone, without the roots.
	s.answers <- secretsOf(t, ca, "web")[:1]
	if r := s.next(t); r.GetErrorDetail() != nil {
		t.Errorf("not acknowledged: %v", r)
	}
	if bytes.Equal(readPair(t, dir), first) {
		t.Error("the renewed certificate was not written")
	}

	// The stream ends, and the next one begins with the node again.
	s.answers <- nil
	if r := s.next(t); r.GetNode().GetId() != "web-1" || r.GetResponseNonce() != "" {
		t.Errorf("the next stream begins with %v", r)
	}
}

// TestACertificateNeverStandsBesideAnothersKey: a reader at any time has a pair,
// if it reads both within the time between two renewals.
func TestACertificateNeverStandsBesideAnothersKey(t *testing.T) {
	ca, _ := open(t)
	id, err := identity.ServiceID(ca.TrustDomain(), "web")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for range 3 {
		secrets := secretsOf(t, ca, "web")
		var files svidFiles
		if _, err := files.take(&discoveryv3.DiscoveryResponse{Resources: secrets}, id); err != nil {
			t.Fatal(err)
		}
		at, err := os.Readlink(filepath.Join(dir, current))
		if err := writeSVID(dir, files); err != nil {
			t.Fatal(err)
		}
		if block, _ := pem.Decode(files.chain); !bytes.Equal(readPair(t, dir), block.Bytes) {
			t.Error("not the new certificate")
		}
		if err != nil {
			continue // the first has no predecessor
		}
		if _, err := os.Stat(filepath.Join(dir, at, identity.SVIDKeyFile)); err != nil {
			t.Errorf("the key went that belongs to what a reader has: %v", err)
		}
	}
	entries, err := filepath.Glob(filepath.Join(dir, "..svid-*"))
	if err != nil || len(entries) != 2 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

func TestAFileInTheWayIsNotReplaced(t *testing.T) {
	dir := t.TempDir()
	precious := filepath.Join(dir, identity.SVIDKeyFile)
	if err := os.WriteFile(precious, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := writeSVID(dir, svidFiles{}); err == nil || !strings.Contains(err.Error(), "is in the way") {
		t.Errorf("error %v", err)
	}
	if data, err := os.ReadFile(precious); err != nil || string(data) != "precious" {
		t.Errorf("%q, %v", data, err)
	}
}
