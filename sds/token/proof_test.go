package token

import (
	"encoding/base64"
	"strings"
	"testing"
)

// A proof holds for what was said, for its purpose, and by this key alone; a token's
// signature is none.
func TestAProofIsOfOneSaying(t *testing.T) {
	a, other := newAuthority(t), newAuthority(t)
	said := []byte("revision 0123456789ab is pinned")
	proof, err := a.Prove("pin", said)
	if err != nil {
		t.Fatal(err)
	}
	if !a.Proves("pin", said, proof) {
		t.Error("it proves not what was said")
	}
	raw, err := a.MintPeer("one")
	if err != nil {
		t.Fatal(err)
	}
	dot := strings.LastIndexByte(raw, '.')
	signature, err := base64.RawURLEncoding.DecodeString(raw[dot+1:])
	if err != nil {
		t.Fatal(err)
	}
	for name, proves := range map[string]bool{
		"something else":    a.Proves("pin", append(said, '.'), proof),
		"another purpose":   a.Proves("pins", said, proof),
		"another key":       other.Proves("pin", said, proof),
		"nothing":           a.Proves("pin", said, nil),
		"a token":           a.Proves("", []byte(raw[:dot]), signature),
		"a proof cut short": a.Proves("pin", said, proof[:len(proof)-1]),
	} {
		if proves {
			t.Errorf("%s is proven", name)
		}
	}
}
