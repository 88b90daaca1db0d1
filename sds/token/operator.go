package token

import (
	"fmt"
	"time"

	"datapunk.dev/controlplane/sds/identity"
)

// adminAudience keeps the tokens of operators apart from those of proxies and control
// planes: none opens what another does.
const adminAudience = "admin"

// Operator is whom an operator's token is for.
type Operator struct {
	Name    string
	Role    string // a word of the operators' API
	Expires time.Time
}

// MintOperator returns a token by which every control plane with the same key knows an
// operator.
func (t *Authority) MintOperator(name, role string, ttl time.Duration) (string, error) {
	if err := checkNode(name); err != nil {
		return "", fmt.Errorf("name of an operator: %w", err)
	}
	if role == "" {
		return "", fmt.Errorf("operator %s has no role", name)
	}
	if ttl < minTTL || ttl > MaxTTL {
		return "", fmt.Errorf("a token cannot live %s: want %s to %s", ttl, minTTL, MaxTTL)
	}
	return t.signClaims(identity.ControlPlaneID(t.td), adminAudience, claims{Node: name, Role: role}, ttl)
}

// VerifyOperator returns whom a token is for, or why it is for nobody.
func (t *Authority) VerifyOperator(raw string) (Operator, error) {
	c, id, err := t.parse(raw, adminAudience)
	if err != nil {
		return Operator{}, err
	}
	if id != identity.ControlPlaneID(t.td) {
		return Operator{}, fmt.Errorf("token subject %s is not of this trust domain's operators", id)
	}
	if err := checkNode(c.Node); err != nil {
		return Operator{}, fmt.Errorf("token: %w", err)
	}
	if c.Role == "" {
		return Operator{}, fmt.Errorf("the token of %s has no role", c.Node)
	}
	return Operator{Name: c.Node, Role: c.Role, Expires: c.ExpiresAt.Time}, nil
}
