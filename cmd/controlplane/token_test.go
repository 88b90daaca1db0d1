package main

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"datapunk.dev/controlplane/sds"
	"datapunk.dev/controlplane/sds/token"
)

// command runs the program with the arguments and returns what it said.
func command(t *testing.T, ctx context.Context, args ...string) (string, error) { //nolint:revive // t comes first in tests
	t.Helper()
	var out bytes.Buffer
	root := newRootCommand()
	root.SetArgs(args)
	root.SetOut(&out)
	root.SetErr(&out)
	err := root.ExecuteContext(ctx)
	return out.String(), err
}

func TestTheTokenCommandWritesWhatTheControlPlaneAccepts(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	_, tokens, err := sds.Open(dir, "datapunk")
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "token.yaml")
	said, err := command(t, t.Context(), "token", "--data-dir", dir, "--service", "lake_service", "--node", "lake-1", "--ttl", "2h", "--out", out)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(said, "node lake-1 may act as lake_service until ") || strings.Contains(said, "Bearer") {
		t.Errorf("it said %q", said)
	}
	raw, err := token.ReadSecretFile(out)
	if err != nil {
		t.Fatal(err)
	}
	claims, err := tokens.Verify(raw)
	if err != nil {
		t.Fatal(err)
	}
	if claims.Service != "lake_service" || claims.Node != "lake-1" || claims.Expires.Sub(claims.Issued) != 2*time.Hour {
		t.Errorf("claims %+v", claims)
	}
	for _, args := range [][]string{
		{"--service", "control-plane", "--node", "x"},
		{"--service", "lake_service", "--node", "x", "--ttl", "9000h"},
	} {
		if _, err := command(t, t.Context(), append([]string{"token", "--data-dir", dir, "--out", out}, args...)...); err == nil {
			t.Errorf("%v was minted", args)
		}
	}
}

func TestTokenRenewKeepsTheFileFresh(t *testing.T) {
	ca, tokens, err := sds.Open(filepath.Join(t.TempDir(), "data"), "datapunk")
	if err != nil {
		t.Fatal(err)
	}
	manager, err := sds.NewManager(ca, sds.Options{Rotation: time.Hour, TTL: 2 * time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.Creds(credentials.NewTLS(manager.ServerTLS())))
	token.RegisterRenewal(server, tokens, slog.New(slog.DiscardHandler))
	go server.Serve(l) //nolint:errcheck // ends with Stop
	defer server.Stop()

	dir := t.TempDir()
	caFile, out := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "token.yaml")
	if err := os.WriteFile(caFile, ca.Roots(), 0o600); err != nil {
		t.Fatal(err)
	}
	old, err := tokens.Mint("lake_service", "lake-1", 4*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if err := token.WriteSecretFile(out, old); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := command(t, ctx, "token", "--renew", "--xds-address", l.Addr().String(), "--ca-file", caFile, "--out", out)
		done <- err
	}()
	time.Sleep(6 * time.Second) // the first has expired by now
	raw, err := token.ReadSecretFile(out)
	if err != nil {
		t.Fatal(err)
	}
	if claims, err := tokens.Verify(raw); err != nil || claims.Service != "lake_service" || claims.Node != "lake-1" {
		t.Errorf("claims %+v, %v", claims, err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("it ended with %v", err)
	}
}
