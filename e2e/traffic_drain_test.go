package e2e

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/websocket"

	"datapunk.dev/controlplane/e2e/app"
	"datapunk.dev/controlplane/e2e/harness"
	"datapunk.dev/controlplane/e2e/traffic"
	"datapunk.dev/controlplane/internal/everykey"
	"datapunk.dev/controlplane/internal/tool"
)

// draining returns the keys whose edits docs/operations.md lists as draining.
func draining(t *testing.T) []string {
	t.Helper()
	page, err := os.ReadFile(tool.Root() + "/docs/operations.md")
	noError(t, err)
	_, rest, _ := strings.Cut(string(page), "<!-- edits that drain")
	list, _, found := strings.Cut(rest, "<!-- end -->")
	if !found {
		t.Fatal("docs/operations.md has no list of edits that drain")
	}
	var keys []string
	for line := range strings.Lines(list) {
		cells := strings.Split(line, "|")
		if len(cells) < 3 {
			continue
		}
		for i, part := range strings.Split(cells[1], "`") {
			if i%2 == 1 {
				keys = append(keys, part)
			}
		}
	}
	return keys
}

// openCalls are what stays open: a WebSocket, a stream of gRPC, a TCP connection, and
// connections of HTTP/1 and HTTP/2 that requests come over.
type openCalls struct {
	ws     *websocket.Conn
	stream app.Talking
	bank   bankCall
	kept   map[string]*traffic.Client // by what they speak
}

func openThem(ctx context.Context, t *testing.T, m *harness.Mesh, bank string) openCalls {
	t.Helper()
	c := openCalls{ws: dialWebSocket(ctx, t, m.Sidecar("shop-1").Outbound(), "web")}
	var err error
	c.bank, err = callBank(ctx, t, bank)
	noError(t, err)
	outbound := m.Sidecar("shop-1").Outbound()
	c.stream, err = app.CallTalk(ctx, dialGRPC(t, outbound, "web"))
	noError(t, err)
	c.kept = map[string]*traffic.Client{"HTTP/1": traffic.NewClient(outbound), "HTTP/2": traffic.NewHTTP2Client(outbound)}
	for _, client := range c.kept {
		t.Cleanup(client.Close)
	}
	return c
}

func (c openCalls) talk(ctx context.Context, text string) error {
	if err := c.says(text); err != nil {
		return err
	}
	if got, err := c.stream.Say(text); err != nil || got != "web-1: "+text {
		return fmt.Errorf("the stream of gRPC says %q: %w", got, err)
	}
	for protocol, client := range c.kept {
		for range 2 { // the first answer may say that the connection closes
			if _, err := client.Get(ctx, "web", "/"); err != nil { // whatever the status
				return fmt.Errorf("%s: %w", protocol, err)
			}
		}
		if n := client.Dials(); n != 1 {
			return fmt.Errorf("the connection of %s was closed: there have been %d", protocol, n)
		}
	}
	if err := c.bank.echoes(text); err != nil {
		return fmt.Errorf("the bank: %w", err)
	}
	return nil
}

func (c openCalls) says(text string) error {
	var got string
	if err := websocket.Message.Send(c.ws, text); err != nil {
		return fmt.Errorf("the WebSocket: %w", err)
	}
	if err := websocket.Message.Receive(c.ws, &got); err != nil || got != "web-1: "+text {
		return fmt.Errorf("the WebSocket says %q: %w", got, err)
	}
	return nil
}

// drainMesh is the mesh whose every key is edited. Its Envoys give what they
// drain a second.
func drainMesh(t *testing.T) (m *harness.Mesh, bank string, edit func(text string)) {
	t.Helper()
	port := strconv.Itoa(harness.Port(t))
	ours := func(text string) string { return strings.ReplaceAll(text, "5432", port) }
	m = harness.Start(t, harness.Options{Mesh: ours(everykey.Base())})
	fast := []string{"--drain-time-s", "1"}
	m.Add(harness.Spec{Service: "shop", ID: "shop-1", Scoped: true, Args: fast})
	m.Add(harness.Spec{Service: "web", ID: "web-1", Args: fast})
	m.Add(harness.Spec{Service: "other", ID: "other-1", Args: fast})
	m.Add(harness.Spec{Service: "db", ID: "db-1", SpeaksTCP: true, Banner: banner, Args: fast})
	m.Ready()
	return m, "127.0.0.1:" + port, func(text string) {
		t.Helper()
		before := m.Metrics()["controlplane_mesh_reloads_total"]
		m.Edit(ours(text))
		// Many an edit opens something, and would wait for seconds.
		if out := m.CLI("accept", "-f", m.MeshFile(0), "--data-dir", m.Plane.Options().DataDir); out.Code != 0 {
			t.Fatalf("accept: %s", out.Stderr)
		}
		harness.Eventually(t, "the edit is in force", 10*time.Second, func() error {
			if m.Metrics()["controlplane_mesh_reloads_total"] == before {
				return fmt.Errorf("it is not")
			}
			return nil
		})
		noError(t, m.Plane.WaitSynced(t.Context(), 10*time.Second, "shop-1", "web-1", "other-1", "db-1"))
	}
}

// listenerChanges counts what drains in an Envoy.
func listenerChanges(m *harness.Mesh, id string) uint64 {
	s := m.Stats(id)
	return s["listener_manager.listener_modified"] + s["listener_manager.listener_in_place_updated"] + s["listener_manager.listener_removed"]
}

// TestAnEditOfAnyOtherKeyCutsNothingThatIsOpen: every key that the list in
// docs/operations.md does not have is edited, one after the other, under an open
// WebSocket, a stream of gRPC, a TCP connection and connections of HTTP/1 and HTTP/2,
// which must outlive the drain time after the last.
func TestAnEditOfAnyOtherKeyCutsNothingThatIsOpen(t *testing.T) {
	t.Parallel() // it waits, most of the time
	edits, err := everykey.Edits()
	noError(t, err)
	drains := draining(t)
	m, bank, edit := drainMesh(t)
	open := openThem(harness.Context(t, 8*time.Minute), t, m, bank)
	ids := []string{"shop-1", "web-1", "db-1"}
	before := make(map[string]uint64)
	for _, id := range ids {
		before[id] = listenerChanges(m, id)
	}
	edited := 0
	for _, e := range edits {
		if e.Refused != "" || slices.Contains(drains, e.Key) {
			continue
		}
		edited++
		edit(e.After)
		if err := open.talk(t.Context(), e.Key); err != nil {
			t.Fatalf("after an edit of %s: %v", e.Key, err)
		}
		for _, id := range ids {
			if now := listenerChanges(m, id); now != before[id] {
				t.Errorf("an edit of %s changed a listener of %s", e.Key, id)
				before[id] = now
			}
		}
	}
	if edited < 200 {
		t.Errorf("only %d keys were edited", edited)
	}
	t.Logf("%d keys", edited)
	harness.Eventually(t, "nothing drains in any Envoy", 5*time.Second, func() error {
		for _, id := range ids {
			if n := m.Stats(id)["listener_manager.total_filter_chains_draining"]; n != 0 {
				return fmt.Errorf("%d of %s", n, id)
			}
		}
		return nil
	})
	noError(t, open.talk(t.Context(), "at the end"))
}

// TestPermissiveModeComesWithoutACutForHTTP: a chain is added beside the one
// over which sidecars call. A service of TCP is drained, as the list says.
func TestPermissiveModeComesWithoutACutForHTTP(t *testing.T) {
	edits, err := everykey.Edits()
	noError(t, err)
	m, bank, edit := drainMesh(t)
	open := openThem(harness.Context(t, 2*time.Minute), t, m, bank)
	noError(t, open.talk(t.Context(), "before"))
	edit(after(t, edits, "security.mtls.mode"))
	harness.Eventually(t, "the TCP connection is cut", 20*time.Second, func() error {
		if err := open.bank.echoes("still there"); err == nil {
			return fmt.Errorf("it is open")
		}
		return nil
	})
	harness.Eventually(t, "nothing drains at web", 5*time.Second, func() error {
		if n := m.Stats("web-1")["listener_manager.total_filter_chains_draining"]; n != 0 {
			return fmt.Errorf("%d chains", n)
		}
		return nil
	})
	noError(t, open.says("after"))
	if r, err := traffic.Raw(t.Context(), m.Sidecar("web-1").Inbound(), traffic.Request{Host: "web"}); err != nil || r.Status != 403 {
		t.Errorf("a caller in plaintext, whom no policy admits: %s, %v", r, err)
	}
}

// TestAnEditThatIsListedAsDrainingDrains: the list is not longer than it must be.
func TestAnEditThatIsListedAsDrainingDrains(t *testing.T) {
	edits, err := everykey.Edits()
	noError(t, err)
	m, bank, edit := drainMesh(t)
	open := openThem(harness.Context(t, 2*time.Minute), t, m, bank)
	noError(t, open.talk(t.Context(), "before"))
	edit(after(t, edits, "policies.timeout.idle"))
	harness.Eventually(t, "the WebSocket is cut", 20*time.Second, func() error {
		if err := open.says("still there"); err == nil {
			return fmt.Errorf("it is open")
		}
		return nil
	})
}

// after is the mesh file with another value of a key.
func after(t *testing.T, edits []everykey.Edit, key string) string {
	t.Helper()
	i := slices.IndexFunc(edits, func(e everykey.Edit) bool { return e.Key == key })
	if i < 0 {
		t.Fatalf("no edit of %s", key)
	}
	return edits[i].After
}
