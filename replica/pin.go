package replica

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"datapunk.dev/controlplane/consul"
)

// MaxText is how many bytes of a text can be shared: what Consul takes as one value.
const MaxText = 512 << 10

// ErrBehind says that nothing was written: what it was based on is there no more, or the
// session of this replica is over.
var ErrBehind = errors.New("what the replicas share has changed meanwhile, or this one's session is over")

// Pin is the last word of an operator on which revision of the mesh file all replicas
// serve, whatever their files say. The word that a pin is released is one too: a key that
// is gone says nothing, for Consul may have been restored.
type Pin struct {
	Epoch    uint64    `json:"epoch"` // one more with each word
	Revision string    `json:"revision"`
	Released bool      `json:"released,omitempty"`
	By       string    `json:"by"`      // the operator
	Replica  string    `json:"replica"` // that was told
	Since    time.Time `json:"since"`
	// Text is the SHA-256 of what [Replica.Text] has of the revision; empty: it was too
	// large, and those serve it that keep it.
	Text string `json:"text,omitempty"`
	// Proof is that a replica has written it: others may write keys too.
	Proof []byte `json:"proof,omitempty"`

	index uint64 // of the key; 0: there is none
}

// Said is what the proof of a pin is of, in a mesh.
func (p Pin) Said(mesh string) []byte {
	p.Proof = nil
	said, _ := json.Marshal(p) // of texts, a number and a time of day
	return append([]byte(mesh+"\n"), said...)
}

// WritePin writes a word in the place of what the view has, with the text of its revision,
// at most [MaxText]; nil: it is not shared. Whoever hears of the word finds the text. It is
// [ErrBehind] if another replica was faster.
func (r *Replica) WritePin(ctx context.Context, v *View, next Pin, text []byte) error {
	r.mu.Lock()
	session := r.session
	r.mu.Unlock()
	if session == "" || v.Trouble != "" {
		return fmt.Errorf("this replica is not in touch with the others: %s", v.Trouble)
	}
	if text != nil {
		if err := r.kv.write(ctx, r.kv.text(next.Revision), text); err != nil {
			return fmt.Errorf("the text of revision %s: %w", next.Revision, err)
		}
	}
	body, err := json.Marshal(next)
	if err != nil {
		return err
	}
	index, old := uint64(0), ""
	if v.Pin != nil {
		index, old = v.Pin.index, v.Pin.Revision
	}
	ops := []op{
		{"KV": map[string]any{"Verb": "check-session", "Key": r.kv.member(r.self), "Session": session}},
		{"KV": map[string]any{"Verb": "cas", "Key": r.kv.pin(), "Value": body, "Index": index}},
	}
	// Texts go with the word alone: one that somebody has just written, for a word of his
	// own, is then gone only if that word is refused.
	switch {
	case next.Released:
		ops = append(ops, op{"KV": map[string]any{"Verb": "delete-tree", "Key": r.kv.text("")}})
	case old != "" && old != next.Revision:
		ops = append(ops, op{"KV": map[string]any{"Verb": "delete", "Key": r.kv.text(old)}})
	}
	err = r.kv.put(ctx, "/v1/txn", nil, ops, nil)
	if isConflict(err) {
		return ErrBehind
	}
	return err
}

// Text returns the text of a revision that is pinned.
func (r *Replica) Text(ctx context.Context, revision string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	a, err := r.kv.client.Do(ctx, consul.Request{Path: kvPath(r.kv.text(revision)), Params: url.Values{"raw": {""}}})
	var status *consul.StatusError
	if errors.As(err, &status) && status.Code == http.StatusNotFound {
		return nil, fmt.Errorf("no key %s in Consul", r.kv.text(revision))
	}
	if err != nil {
		return nil, err
	}
	return a.Body, nil
}
