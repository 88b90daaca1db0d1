package token

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
)

// Prove returns the proof that a control plane with this key has said something, for a
// place where others can write too. A proof for one purpose is none for another, and no
// token: it has no date, so who reads it has to know whether something newer was said.
func (t *Authority) Prove(purpose string, said []byte) ([]byte, error) {
	return ecdsa.SignASN1(rand.Reader, t.key, digest(purpose, said))
}

// Proves reports whether a proof is one of [Authority.Prove], with this key.
func (t *Authority) Proves(purpose string, said, proof []byte) bool {
	return ecdsa.VerifyASN1(&t.key.PublicKey, digest(purpose, said), proof)
}

// digest has a NUL between the two, which no JWT has: what signs one makes no other.
func digest(purpose string, said []byte) []byte {
	sum := sha256.Sum256(append([]byte(purpose+"\x00"), said...))
	return sum[:]
}
