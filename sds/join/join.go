package join

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Request is what a machine asks to be.
type Request struct {
	Service string // empty: as the credential says
	Node    string // empty: a name is made
	Attempt string // see [Tokens.Use]
}

// Proof is what a credential lets a machine be.
type Proof struct {
	Service, Node string
	TTL           time.Duration // of the node's token
}

// Refusal is why a machine may not join, for itself to read: it has proved
// enough to be told.
type Refusal string

// Error implements error.
func (r Refusal) Error() string { return string(r) }

// errAsk is a request that leaves open what the credential leaves open.
const errAsk = Refusal("the machine has to say of which service and which node it is")

// Prove exchanges a join token, which counts as a use of it.
func (t *Tokens) Prove(_ context.Context, raw string, r Request) (Proof, error) {
	if r.Service == "" || r.Node == "" {
		return Proof{}, errAsk
	}
	k, err := t.Use(raw, r.Service, r.Node, r.Attempt)
	switch {
	case errors.Is(err, ErrExpired), errors.Is(err, ErrUsedUp), errors.Is(err, ErrService):
		return Proof{}, Refusal(err.Error())
	case err != nil:
		return Proof{}, fmt.Errorf("join token: %w", err)
	}
	return Proof{Service: r.Service, Node: r.Node, TTL: k.NodeTTL}, nil
}
