package token

import (
	"fmt"
	"time"

	"datapunk.dev/controlplane/sds/identity"
)

const (
	// peerAudience keeps the tokens of control planes apart from those of proxies:
	// neither opens what the other does.
	peerAudience = "replicas"
	peerLife     = 2 * time.Minute
)

// MintPeer returns a token by which another control plane with the same key knows this
// one, under the name that it has among the replicas. It is good for two minutes.
func (t *Authority) MintPeer(name string) (string, error) {
	if err := checkNode(name); err != nil {
		return "", err
	}
	return t.sign(identity.ControlPlaneID(t.td), peerAudience, name, peerLife)
}

// VerifyPeer returns the name of the control plane that shows a token, or why it shows
// none.
func (t *Authority) VerifyPeer(raw string) (name string, err error) {
	c, id, err := t.parse(raw, peerAudience)
	if err != nil {
		return "", err
	}
	if id != identity.ControlPlaneID(t.td) {
		return "", fmt.Errorf("token subject %s is no control plane of this trust domain", id)
	}
	if err := checkNode(c.Node); err != nil {
		return "", fmt.Errorf("token: %w", err)
	}
	if life := c.ExpiresAt.Sub(c.IssuedAt.Time); life > peerLife {
		return "", fmt.Errorf("token lives %s, the limit is %s", life, peerLife)
	}
	return c.Node, nil
}
