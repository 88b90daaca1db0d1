package control

import (
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"datapunk.dev/controlplane/replica"
	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/sds"
	"datapunk.dev/controlplane/sds/token"
	"datapunk.dev/controlplane/xds"
)

// peerPlane is what of a control plane speaks to others, with the authority of a
// directory, and the address where it serves proxies.
func peerPlane(t *testing.T, dir string, proxies ...xds.ProxyStatus) (*Plane, string) {
	t.Helper()
	ca, tokens, err := sds.Open(dir, "datapunk")
	if err != nil {
		t.Fatal(err)
	}
	svids, err := sds.NewManager(ca, sds.Options{Rotation: time.Hour, TTL: 2 * time.Hour, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	p := &Plane{Options: Options{Log: log, ClientLog: log}, svids: svids, tokens: tokens, registrations: &Registrations{replica: "asker"}}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.Creds(credentials.NewTLS(svids.ServerTLS())))
	replica.Serve(server, p.peerCalls, func() (all []json.RawMessage, err error) {
		for _, one := range proxies {
			data, err := json.Marshal(one)
			if err != nil {
				return nil, err
			}
			all = append(all, data)
		}
		return all, nil
	})
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	return p, listener.Addr().String()
}

// Replicas with one authority tell each other of their proxies, as they know them.
func TestAReplicaIsToldOfTheProxiesOfAnother(t *testing.T) {
	dir := t.TempDir()
	want := xds.ProxyStatus{
		Node: "web-1", Service: "web", Peer: "10.0.0.1:4711", Protocol: "delta", Connected: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		Profile: resource.Profile{Service: "web", Kind: resource.Proxyless, Address: "10.0.0.1", Zone: "z", AppAddress: "::1", AppPort: 1, MeshPort: 2, OutboundPort: 3, MetricsPort: 4},
		Types:   map[string]xds.TypeStatus{"cluster": {State: xds.Synced, Sent: "1", Acknowledged: "1"}},
	}
	p, address := peerPlane(t, dir, want)
	got, err := p.ask(t.Context(), address)
	if err != nil || len(got) != 1 {
		t.Fatalf("%v, %v", got, err)
	}
	if a, b := text(t, want), text(t, got[0]); a != b || got[0].Profile != want.Profile {
		t.Errorf("it was told\n%s\nof\n%s", b, a)
	}
}

func text(t *testing.T, v any) string {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// Whoever is no control plane of the mesh learns nothing, and is shown no token.
func TestOnlyReplicasAreToldOfTheFleet(t *testing.T) {
	p, address := peerPlane(t, t.TempDir())
	proxy, err := p.tokens.Mint("web", "web-1", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]context.Context{
		"a proxy":  token.NewContext(t.Context(), proxy),
		"no token": t.Context(),
	} {
		conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(credentials.NewTLS(p.svids.PeerTLS())), grpc.WithNoProxy())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := replica.Proxies(c, conn); status.Code(err) != codes.Unauthenticated {
			t.Errorf("%s: %v", what, err)
		}
		_ = conn.Close()
	}
	// One of another authority neither answers nor is told.
	other, _ := peerPlane(t, t.TempDir())
	if _, err := other.ask(t.Context(), address); err == nil || !strings.Contains(err.Error(), "x509svid") {
		t.Errorf("it speaks to a control plane that it does not know: %v", err)
	}
}

// One that has just moved is shown once, where it is now.
func TestAProxyThatHasMovedIsShownOnce(t *testing.T) {
	now := time.Now()
	at := func(node, replica string, ago time.Duration) xds.ProxyStatus {
		return xds.ProxyStatus{Node: node, Replica: replica, Connected: now.Add(-ago)}
	}
	got := merged([][]xds.ProxyStatus{
		{at("a", "one", time.Hour), at("c", "one", time.Second)},
		{at("b", "two", time.Hour), at("a", "two", time.Second)},
		{at("c", "three", time.Minute)},
	})
	var all []string
	for _, p := range got {
		all = append(all, p.Node+" at "+p.Replica)
	}
	if s := strings.Join(all, ", "); s != "a at two, b at two, c at one" {
		t.Error(s)
	}
}
