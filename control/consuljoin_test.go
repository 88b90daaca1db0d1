package control

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/hashicorp/consul/api"

	"datapunk.dev/controlplane/internal/consulagent"
	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/sds/join"
)

// proverOf asks an agent, by the mesh file; lake_service is lake in Consul.
func proverOf(t *testing.T, agent *consulagent.Agent) *consulProver {
	t.Helper()
	host, port, err := net.SplitHostPort(agent.HTTP)
	if err != nil {
		t.Fatal(err)
	}
	m := mesh(t, fmt.Sprintf("mesh: {name: datapunk, discovery: {consul: {host: %s, port: %s}}, services: {lake_service: {consul_service: lake}}}", host, port))
	p := newConsulProver(func() *policy.Mesh { return m })
	t.Cleanup(func() {
		if p.client != nil {
			p.client.Close()
		}
	})
	return p
}

// TestAConsulTokenJoinsTheServicesThatItMayWrite, asked of a real Consul, and
// none that may do more than a machine should.
func TestAConsulTokenJoinsTheServicesThatItMayWrite(t *testing.T) {
	agent := consulagent.ForTest(t, consulagent.Options{ACLs: true})
	prover := proverOf(t, agent)
	token := func(rules string) (secret, accessor string) {
		t.Helper()
		policy, _, err := agent.API.ACL().PolicyCreate(&api.ACLPolicy{Name: fmt.Sprintf("p%d", len(rules)), Rules: rules}, nil)
		if err != nil {
			t.Fatal(err)
		}
		made, _, err := agent.API.ACL().TokenCreate(&api.ACLToken{Policies: []*api.ACLTokenPolicyLink{{ID: policy.ID}}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return made.SecretID, made.AccessorID
	}
	lake, accessor := token(`service "lake" { policy = "write" }`)
	reader, _ := token(`service_prefix "" { policy = "read" } node_prefix "" { policy = "read" }`)
	operator, _ := token(`service_prefix "" { policy = "write" } operator = "write"`)
	request := func(service string) join.Request {
		return join.Request{Service: service, Node: service + "-1", Attempt: "a"}
	}
	if p, err := prover.Prove(t.Context(), lake, request("lake_service")); err != nil || p.Service != "lake_service" || p.Node != "lake_service-1" || p.TTL != consulTTL {
		t.Fatalf("%+v, %v", p, err)
	}
	for name, tt := range map[string]struct {
		token, service string
		told           bool
	}{
		"another service": {lake, "bank", true},
		"its name in Consul that is no service of the mesh file with that": {reader, "lake", true},
		"a token that reads":   {reader, "lake_service", true},
		"the management token": {consulagent.ManagementToken, "lake_service", true},
		"an operator's":        {operator, "lake_service", true},
		"nobody's":             {"6a1f5f0e-0000-4f5e-9a54-8a3f6d1c2b3a", "lake_service", false},
		"anonymous":            {"anonymous", "lake_service", false},
		"a line break":         {"a\r\nX-Consul-Token: " + lake, "lake_service", false},
		"too long":             {strings.Repeat("a", 300), "lake_service", false},
		"no service":           {lake, "", true},
	} {
		r := request(tt.service)
		p, err := prover.Prove(t.Context(), tt.token, r)
		if err == nil {
			t.Errorf("%s: joined as %+v", name, p)
			continue
		}
		if errors.As(err, new(join.Refusal)) != tt.told {
			t.Errorf("%s: the client is told: %v; %v", name, !tt.told, err)
		}
		if strings.Contains(err.Error(), lake) {
			t.Errorf("%s: the error has the token: %v", name, err)
		}
	}
	// One that is revoked is not taken again; Consul may keep it for a moment.
	if _, err := agent.API.ACL().TokenDelete(accessor, nil); err != nil {
		t.Fatal(err)
	}
	if p, err := prover.Prove(t.Context(), lake, request("lake_service")); err == nil {
		t.Errorf("revoked: %+v", p)
	}
}

// TestWithoutACLsNobodyJoinsByConsul: then everybody may write everything.
func TestWithoutACLsNobodyJoinsByConsul(t *testing.T) {
	prover := proverOf(t, consulagent.ForTest(t, consulagent.Options{}))
	if p, err := prover.Prove(t.Context(), "a", join.Request{Service: "lake_service", Node: "lake-1", Attempt: "a"}); err == nil {
		t.Errorf("%+v", p)
	}
}
