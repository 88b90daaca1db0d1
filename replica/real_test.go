//go:build component

package replica

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"datapunk.dev/controlplane/consul"
	"datapunk.dev/controlplane/internal/consulagent"
)

// aclPolicy is what docs/security.md says that the token needs.
const aclPolicy = `
node_prefix "mesh-" { policy = "write" }
node_prefix "" { policy = "read" }
session_prefix "mesh-" { policy = "write" }
key_prefix "controlplane/datapunk/" { policy = "write" }`

func eventually(t *testing.T, what string, limit time.Duration, ok func() bool) time.Duration {
	t.Helper()
	began := time.Now()
	for !ok() {
		if time.Since(began) > limit {
			t.Fatalf("not within %s: %s", limit, what)
		}
		time.Sleep(20 * time.Millisecond)
	}
	return time.Since(began)
}

// TestRealReplicas: what the fake is believed of, on a real Consul that denies by
// default.
func TestRealReplicas(t *testing.T) {
	agent := consulagent.ForTest(t, consulagent.Options{ACLs: true})
	policy, _, err := agent.API.ACL().PolicyCreate(&api.ACLPolicy{Name: "controlplane", Rules: aclPolicy}, nil)
	if err != nil {
		t.Fatal(err)
	}
	token, _, err := agent.API.ACL().TokenCreate(&api.ACLToken{Policies: []*api.ACLLink{{ID: policy.ID}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	begin := func(name, token string) *one {
		o := newOne(t, name, func(*one) *consul.Client {
			c, err := consul.New(consul.Config{Address: agent.HTTP, Token: token, MaxConnections: 16})
			if err != nil {
				t.Fatal(err)
			}
			return c
		})
		ctx, cancel := context.WithCancel(t.Context())
		var done sync.WaitGroup
		done.Go(func() { o.Run(ctx) })
		o.stop = func() { cancel(); done.Wait() }
		t.Cleanup(o.stop)
		return o
	}
	a := begin("a", token.SecretID)
	eventually(t, "a leads", 20*time.Second, func() bool { return a.View().Leads })
	b := begin("b", token.SecretID)
	eventually(t, "each knows both", 20*time.Second, func() bool {
		return len(a.View().Members) == 2 && slices.Equal(members(b.View()), []string{"a", "b"}) && b.View().Leader == "a"
	})
	a.be(func(m *Member) { m.Streams = 1000 })
	eventually(t, "b hears of it", 5*time.Second, func() bool { return b.View().Member("a").Streams == 1000 })

	if err := a.WriteStages(t.Context(), a.View(), Stages{Epoch: 1, At: 1}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "b has the stage", 5*time.Second, func() bool { return b.View().Stages != nil && b.View().Stages.At == 1 })
	eventually(t, "a has it too", 5*time.Second, func() bool { return a.View().Stages != nil })
	if err := b.WriteStages(t.Context(), b.View(), Stages{Epoch: 2, At: 2}); !errors.Is(err, ErrNotLeading) {
		t.Errorf("b, which does not lead, wrote: %v", err)
	}
	text := bytes.Repeat([]byte("0123456789abcdef"), MaxText/16) // as large as Consul takes
	if err := b.WritePin(t.Context(), b.View(), Pin{Epoch: 1, Revision: first, By: "ada"}, text); err != nil {
		t.Fatal(err) // though it does not lead
	}
	heard := eventually(t, "a has the pin", 5*time.Second, func() bool { return a.View().Pin != nil && a.View().Pin.By == "ada" })
	t.Logf("a pin is known to the other replica after %s", heard.Round(time.Millisecond))
	if got, err := a.Text(t.Context(), first); err != nil || !bytes.Equal(got, text) {
		t.Errorf("its text has %d bytes, %v", len(got), err)
	}
	if err := a.WritePin(t.Context(), &View{}, Pin{Epoch: 2, Revision: second}, nil); !errors.Is(err, ErrBehind) {
		t.Errorf("a pin that knows of none: %v", err)
	}
	if err := a.WritePin(t.Context(), a.View(), Pin{Epoch: 2, Revision: second}, append(text, '.')); err == nil {
		t.Error("Consul takes more than MaxText")
	}
	if err := a.WritePin(t.Context(), a.View(), Pin{Epoch: 2, Revision: first, Released: true}, nil); err != nil {
		t.Error(err)
	}
	eventually(t, "b hears of the release", 5*time.Second, func() bool { return b.View().Pin.Released })
	if _, err := b.Text(t.Context(), first); err == nil || !strings.Contains(err.Error(), "no key") {
		t.Errorf("the text of what was released: %v", err)
	}
	old := a.View()
	a.stop() // as one that is paused: it keeps what it believes, and renews nothing
	took := eventually(t, "b leads", 40*time.Second, func() bool { return b.View().Leads && len(b.View().Members) == 1 })
	t.Logf("another replica leads %s after the last renewal", took.Round(100*time.Millisecond))
	if err := a.WriteStages(t.Context(), old, Stages{Epoch: 2, At: 0}); !errors.Is(err, ErrNotLeading) {
		t.Errorf("the paused one wrote: %v", err)
	}
	if err := a.WritePin(t.Context(), old, Pin{Epoch: 3, Revision: second}, nil); !errors.Is(err, ErrBehind) {
		t.Errorf("the paused one pinned: %v", err)
	}
	if err := b.WriteStages(t.Context(), b.View(), Stages{Epoch: 2, At: 2}); err != nil {
		t.Error(err)
	}
	b.stop()
	b.Release()
	c := begin("c", token.SecretID)
	if took := eventually(t, "c leads", 10*time.Second, func() bool { return c.View().Leads }); took > 8*time.Second {
		t.Errorf("after a release c leads after %s", took)
	}

	// A token that may not, and one that Consul does not know.
	for name, token := range map[string]string{"anonymous": "", "unknown": "11111111-2222-3333-4444-555555555555"} {
		o := begin(name, token)
		eventually(t, name+" says why", 10*time.Second, func() bool { return o.View().Trouble != "" && o.View().Answered() })
		t.Logf("%s: %s", name, o.View().Trouble)
		if o.View().Leads {
			t.Errorf("%s leads", name)
		}
	}
}
