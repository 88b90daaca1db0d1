package join

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

const (
	// nomadTTL is the life of a node's token that a workload identity was
	// exchanged for: its own is short, and there is a new one at any time.
	nomadTTL = 24 * time.Hour
	// maxWorkload bounds a workload identity in bytes.
	maxWorkload = 8 << 10
	// nomadLeeway is how much a clock may be off.
	nomadLeeway = time.Minute
)

// The claims of a workload identity that may name the service.
const (
	ClaimService = "nomad_service"
	ClaimJob     = "nomad_job_id"
	ClaimGroup   = "nomad_task_group"
)

// NomadOptions say which workload identities are believed.
type NomadOptions struct {
	// JWKS is where Nomad's keys are: the path of a file, or a URL, as a rule
	// /.well-known/jwks.json of a Nomad server.
	JWKS       string
	Audience   string   // which the identity must be for
	Namespaces []string // of Nomad, whose jobs may join
	Claim      string   // that names the service
}

// Nomad exchanges workload identities. It asks Nomad nothing: an identity is
// signed, and keys that are known go on while their source is away.
type Nomad struct {
	options NomadOptions
	keys    *keys
	now     func() time.Time
}

// NewNomad returns a Nomad. The keys are read when they are needed first.
func NewNomad(o NomadOptions) (*Nomad, error) {
	switch {
	case o.JWKS == "" || o.Audience == "" || len(o.Namespaces) == 0:
		return nil, errors.New("nomad: keys, audience and namespaces are required")
	case !slices.Contains([]string{ClaimService, ClaimJob, ClaimGroup}, o.Claim):
		return nil, fmt.Errorf("nomad: claim %q: want %s, %s or %s", o.Claim, ClaimService, ClaimJob, ClaimGroup)
	}
	return &Nomad{options: o, keys: newKeys(o.JWKS), now: wallClock}, nil
}

// workload is the payload of an identity.
type workload struct {
	jwt.RegisteredClaims
	Namespace  string `json:"nomad_namespace"`
	Allocation string `json:"nomad_allocation_id"`
	Service    string `json:"nomad_service"`
	Job        string `json:"nomad_job_id"`
	Group      string `json:"nomad_task_group"`
}

// Prove exchanges a workload identity. The node is named after its allocation,
// so that an identity makes a machine no other node.
func (n *Nomad) Prove(ctx context.Context, raw string, r Request) (Proof, error) {
	if len(raw) > maxWorkload {
		return Proof{}, fmt.Errorf("workload identity: %d bytes, the limit is %d", len(raw), maxWorkload)
	}
	var w workload
	_, err := jwt.NewParser(
		jwt.WithValidMethods([]string{"RS256", "ES256", "EdDSA"}),
		jwt.WithAudience(n.options.Audience),
		jwt.WithExpirationRequired(),
		jwt.WithIssuedAt(),
		jwt.WithLeeway(nomadLeeway),
		jwt.WithTimeFunc(n.now),
		jwt.WithStrictDecoding(),
	).ParseWithClaims(raw, &w, func(t *jwt.Token) (any, error) {
		id, _ := t.Header["kid"].(string)
		return n.keys.get(ctx, id, t.Method.Alg(), n.now())
	})
	if err != nil {
		return Proof{}, fmt.Errorf("workload identity: %w", err)
	}
	service := map[string]string{ClaimService: w.Service, ClaimJob: w.Job, ClaimGroup: w.Group}[n.options.Claim]
	switch {
	case !n.now().Before(w.ExpiresAt.Time):
		return Proof{}, Refusal("the workload identity has expired")
	case !slices.Contains(n.options.Namespaces, w.Namespace):
		return Proof{}, Refusal(fmt.Sprintf("jobs of the Nomad namespace %q may not join", w.Namespace))
	case service == "" || w.Allocation == "":
		return Proof{}, Refusal(fmt.Sprintf("the workload identity has no %s or no nomad_allocation_id", n.options.Claim))
	case r.Service != "" && r.Service != service:
		return Proof{}, Refusal(fmt.Sprintf("the workload identity is of %q", service))
	}
	node := service + "-" + w.Allocation
	if r.Node != "" && r.Node != node {
		return Proof{}, Refusal(fmt.Sprintf("the workload identity is of the node %q", node))
	}
	return Proof{Service: service, Node: node, TTL: nomadTTL}, nil
}
