package xds

import (
	"fmt"
	"slices"
	"testing"

	"google.golang.org/protobuf/types/known/structpb"

	"datapunk.dev/controlplane/resource"
)

// presences are what OnPresence was told: +node for one that is there, -node for one
// that is gone.
func presences(w *world) *[]string {
	var told []string
	w.server.options.OnPresence = func(p Presence, connected bool) {
		sign := "-"
		if connected {
			sign = "+"
		}
		told = append(told, sign+p.Node)
	}
	return &told
}

func TestAProxyIsThereOnceItHasItsListeners(t *testing.T) {
	is := func(t *testing.T, told *[]string, want ...string) {
		t.Helper()
		if !slices.Equal(*told, want) {
			t.Errorf("told %v, want %v", *told, want)
		}
	}
	protocolTest("when it has acknowledged them, until its stream ends", t, func(t *testing.T, w *world) {
		w.put(listener(resource.ListenerInbound, "1")).publish()
		told := presences(w)
		c := openDelta(t, w.server)
		c.subscribe(cds)
		c.ack(c.next())
		c.subscribe(lds)
		m := c.next()
		is(t, told)
		c.ack(m)
		is(t, told, "+nexus-1")
		w.put(listener(resource.ListenerInbound, "2")).publish()
		c.ack(c.next())
		is(t, told, "+nexus-1")
		c.close()
		_ = c.end()
		is(t, told, "+nexus-1", "-nexus-1")
	})
	protocolTest("at once, when it comes back with all of them", t, func(t *testing.T, w *world) {
		w.put(listener(resource.ListenerInbound, "1")).publish()
		told := presences(w)
		c := openDelta(t, w.server)
		c.reconnect(lds, nil, "in", "1", "out", "1", resource.ListenerInbound, "1")
		c.silence("it has them")
		is(t, told, "+nexus-1")
	})
	protocolTest("not while it refuses that of its application", t, func(t *testing.T, w *world) {
		w.put(listener(resource.ListenerInbound, "1")).publish()
		told := presences(w)
		c := openDelta(t, w.server)
		c.subscribe(lds)
		for m := c.quiet(); m != nil; m = c.quiet() {
			if summary(m) == "listener in@1 out@1" || summary(m) == "listener in@1" || summary(m) == "listener out@1" {
				c.ack(m)
				continue
			}
			c.nack(m, "Error adding/updating listener(s) inbound: cannot bind '0.0.0.0:20000': Address already in use")
		}
		is(t, told)
	})
	protocolTest("a newer stream of it is the same proxy", t, func(t *testing.T, w *world) {
		w.put(listener(resource.ListenerInbound, "1")).publish()
		told := presences(w)
		for range 2 {
			c := openDelta(t, w.server)
			c.subscribe(lds)
			c.ack(c.next())
		}
		// The older one ends before or after the newer one has its listeners.
		if n := len(*told); (*told)[n-1] != "+nexus-1" {
			t.Errorf("told %v", *told)
		}
	})
}

// What a proxy says of its instance reaches who registers it.
func TestWhatAProxySaysOfItsInstance(t *testing.T) {
	protocolTest("version, tags and metadata", t, func(t *testing.T, w *world) {
		metadata, err := structpb.NewStruct(map[string]any{
			"version": "2.0.1", "tags": []any{"primary", "v2"}, "meta": map[string]any{"team": "lake", "shift": "night"},
		})
		if err != nil {
			t.Fatal(err)
		}
		w.put(listener(resource.ListenerInbound, "1")).publish()
		var got Presence
		w.server.options.OnPresence = func(p Presence, _ bool) { got = p }
		c := openDelta(t, w.server)
		c.node.Metadata = metadata
		c.subscribe(lds)
		c.ack(c.next())
		if s := fmt.Sprint(got.Version, got.Tags, got.Meta); s != "2.0.1[primary v2] map[shift:night team:lake]" || got.Proved {
			t.Errorf("%s, proved %v", s, got.Proved)
		}
	})
}
