package identity

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
)

// RootHash is how a root is named in a word: the SHA-256 of its certificate, as
// `openssl x509 -fingerprint -sha256` prints it.
type RootHash [sha256.Size]byte

const hashForm = "sha256:"

// HashRoot returns the hash of a root in PEM.
func HashRoot(caPEM []byte) (RootHash, error) {
	block, _ := pem.Decode(caPEM)
	if block == nil {
		return RootHash{}, errors.New("not PEM")
	}
	return sha256.Sum256(block.Bytes), nil
}

// ParseRootHash reads sha256: and 64 hexadecimal digits, with colons or without.
func ParseRootHash(s string) (RootHash, error) {
	text, ok := strings.CutPrefix(s, hashForm)
	raw, err := hex.DecodeString(strings.ReplaceAll(text, ":", ""))
	if !ok || err != nil || len(raw) != len(RootHash{}) {
		return RootHash{}, fmt.Errorf("%q is no hash of a root: want %s and 64 hexadecimal digits", s, hashForm)
	}
	return RootHash(raw), nil
}

// String is what ParseRootHash reads.
func (h RootHash) String() string { return hashForm + hex.EncodeToString(h[:]) }
