package sds

import (
	"bytes"
	"context"
	"crypto/tls"
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
	"google.golang.org/protobuf/types/known/anypb"
)

// sdsServer is as much of a control plane as hands out secrets.
type sdsServer struct {
	secretv3.UnimplementedSecretDiscoveryServiceServer
	tokens   *Tokens
	answers  chan []*anypb.Any // sent one after the other
	requests chan *discoveryv3.DiscoveryRequest
}

func (s *sdsServer) StreamSecrets(stream secretv3.SecretDiscoveryService_StreamSecretsServer) error {
	raw, err := BearerToken(stream.Context())
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
			if err := stream.Send(&discoveryv3.DiscoveryResponse{TypeUrl: secretType, VersionInfo: "v", Nonce: "n", Resources: answer}); err != nil {
				return err
			}
		case <-stream.Context().Done():
			return nil
		}
	}
}

// secretsOf are an SVID as SDS has it, and the roots.
func secretsOf(t *testing.T, ca *CA, service string) []*anypb.Any {
	t.Helper()
	id, err := ServiceID(ca.TrustDomain(), service)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ca.issue(wallClock(), id, day, serverNames{})
	if err != nil {
		t.Fatal(err)
	}
	body, err := encodeSecret(secretOwn, s)
	if err != nil {
		t.Fatal(err)
	}
	roots, err := anypb.New(&tlsv3.Secret{Name: secretRoots, Type: &tlsv3.Secret_ValidationContext{
		ValidationContext: &tlsv3.CertificateValidationContext{TrustedCa: &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: ca.Roots()}}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	return []*anypb.Any{{TypeUrl: secretType, Value: body}, roots}
}

// svidLoop runs a loop against such a server, and returns the directory.
func svidLoop(t *testing.T, ca *CA, tokens *Tokens, log *bytes.Buffer) (s *sdsServer, dir string) {
	t.Helper()
	s = &sdsServer{tokens: tokens, answers: make(chan []*anypb.Any, 10), requests: make(chan *discoveryv3.DiscoveryRequest, 10)}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(xdsTLS(t, ca))
	secretv3.RegisterSecretDiscoveryServiceServer(server, s)
	file := filepath.Join(t.TempDir(), "token")
	if err := WriteTokenFile(file, mint(t, tokens, "web", "web-1", day)); err != nil {
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
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, SVIDFile), filepath.Join(dir, SVIDKeyFile))
	if err != nil {
		t.Fatal(err)
	}
	return pair.Certificate[0]
}

func TestAClientWithoutAnEnvoyHasItsSVIDInFiles(t *testing.T) {
	ca, tokens, _ := open(t)
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
	if roots, err := os.ReadFile(filepath.Join(dir, BundleFile)); err != nil || !bytes.Equal(roots, ca.Roots()) {
		t.Errorf("the bundle: %v", err)
	}
	for _, name := range []string{SVIDFile, SVIDKeyFile, BundleFile} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, %v", name, info.Mode(), err)
		}
	}

	// What is no certificate of its own changes nothing, and is refused.
	for _, bad := range [][]*anypb.Any{secretsOf(t, ca, "other"), {{TypeUrl: secretType, Value: []byte("\xff")}}} {
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
	ca, _, _ := open(t)
	id := webID(t, ca)
	dir := t.TempDir()
	for range 3 {
		s, err := ca.issue(wallClock(), id, day, serverNames{})
		if err != nil {
			t.Fatal(err)
		}
		var files svidFiles
		var parts []*anypb.Any
		body, err := encodeSecret(secretOwn, s)
		if err != nil {
			t.Fatal(err)
		}
		parts = append(parts, &anypb.Any{TypeUrl: secretType, Value: body})
		if _, err := files.take(&discoveryv3.DiscoveryResponse{Resources: parts}, id); err != nil {
			t.Fatal(err)
		}
		at, err := os.Readlink(filepath.Join(dir, current))
		if err := writeSVID(dir, files); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(readPair(t, dir), s.cert) {
			t.Error("not the new certificate")
		}
		if err != nil {
			continue // the first has no predecessor
		}
		if _, err := os.Stat(filepath.Join(dir, at, SVIDKeyFile)); err != nil {
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
	precious := filepath.Join(dir, SVIDKeyFile)
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
