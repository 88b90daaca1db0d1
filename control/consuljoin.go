package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"datapunk.dev/controlplane/consul"
	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/sds/join"
)

// consulTTL is the life of a node's token that an ACL token was exchanged for:
// the machine has it at hand, and one that Consul has revoked is not taken again.
const consulTTL = 24 * time.Hour

// consulJoins bounds the ACL tokens that Consul is asked of at a time.
const consulJoins = 16

// consulProver takes a Consul ACL token as a proof: whoever may register a
// service may be a node of it. Consul is asked with the token itself.
type consulProver struct {
	mesh  func() *policy.Mesh
	slots chan struct{}

	mu     sync.Mutex
	target consulTarget
	client *consul.Client
}

func newConsulProver(mesh func() *policy.Mesh) *consulProver {
	return &consulProver{mesh: mesh, slots: make(chan struct{}, consulJoins)}
}

// ask is one question of Consul's internal/acl/authorize, and its answer.
type ask struct {
	Resource string
	Segment  string `json:",omitempty"`
	Access   string
	Allow    bool `json:",omitempty"`
}

// Prove implements prover.
func (c *consulProver) Prove(ctx context.Context, raw string, r join.Request) (join.Proof, error) {
	switch {
	case r.Service == "" || r.Node == "":
		return join.Proof{}, join.Refusal("the machine has to say of which service and which node it is")
	case raw == "anonymous" || len(raw) > 256:
		return join.Proof{}, errors.New("consul: not an ACL token of anybody's")
	}
	select {
	case c.slots <- struct{}{}:
		defer func() { <-c.slots }()
	case <-ctx.Done():
		return join.Proof{}, ctx.Err()
	}
	mesh := c.mesh()
	service := mesh.Service(r.Service).ConsulService
	asks := []ask{
		{Resource: "service", Segment: service, Access: "write"},
		// A token that may do everything is a person's, or a leak: it would let a
		// machine be any service, and we would hold it for a moment.
		{Resource: "acl", Access: "write"},
		{Resource: "operator", Access: "write"},
	}
	body, err := json.Marshal(asks)
	if err != nil {
		return join.Proof{}, err
	}
	client, err := c.reach(mesh)
	if err != nil {
		return join.Proof{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	answer, err := client.Do(ctx, consul.Request{Method: "POST", Path: "/v1/internal/acl/authorize", Body: body, Token: raw})
	if err != nil {
		return join.Proof{}, fmt.Errorf("consul: %w", err)
	}
	var answers []ask
	if err := answer.Decode(&answers); err != nil {
		return join.Proof{}, fmt.Errorf("consul: %w", err)
	}
	if len(answers) != len(asks) {
		return join.Proof{}, fmt.Errorf("consul: %d answers to %d questions", len(answers), len(asks))
	}
	for i, a := range answers {
		if a.Resource != asks[i].Resource || a.Access != asks[i].Access || a.Segment != asks[i].Segment {
			return join.Proof{}, errors.New("consul: the answers are not to the questions")
		}
	}
	if answers[1].Allow || answers[2].Allow {
		return join.Proof{}, join.Refusal("the Consul token may manage Consul: a machine joins by one that may write its service and no more")
	}
	if !answers[0].Allow {
		return join.Proof{}, join.Refusal(fmt.Sprintf("the Consul token has no service:write for %q", service))
	}
	return join.Proof{Service: r.Service, Node: r.Node, TTL: consulTTL}, nil
}

// reach returns a client of the Consul that the mesh file names, without a token
// of its own.
func (c *consulProver) reach(m *policy.Mesh) (*consul.Client, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := targetOf("consul", m).consul
	t.tokenFile, t.consistency = "", ""
	if c.client != nil && c.target == t {
		return c.client, nil
	}
	client, err := consul.New(consul.Config{
		Address: t.address, Fallbacks: strings.Fields(t.fallbacks), Scheme: t.scheme, Datacenter: t.datacenter, TLS: consul.TLS(t.tls),
	})
	if err != nil {
		return nil, fmt.Errorf("discovery.consul: %w", err)
	}
	if c.client != nil {
		c.client.Close()
	}
	c.client, c.target = client, t
	return client, nil
}
