package identity

import (
	"crypto/sha256"
	"crypto/x509"
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

// HashRoot returns the hash of a root in PEM, the first if there are several.
func HashRoot(caPEM []byte) (RootHash, error) {
	block, _ := pem.Decode(caPEM)
	if block == nil {
		return RootHash{}, errors.New("not PEM")
	}
	return sha256.Sum256(block.Bytes), nil
}

// HashRoots returns the hashes of all roots of a bundle in PEM.
func HashRoots(bundle []byte) (list []RootHash) {
	for {
		var block *pem.Block
		if block, bundle = pem.Decode(bundle); block == nil {
			return list
		}
		list = append(list, sha256.Sum256(block.Bytes))
	}
}

// RootID is a hash in short, as versions of secrets and the metadata of proxies have it.
func RootID(root *x509.Certificate) string { return RootHash(sha256.Sum256(root.Raw)).ID() }

// ID is the hash in short: its first 8 bytes.
func (h RootHash) ID() string { return hex.EncodeToString(h[:8]) }

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
