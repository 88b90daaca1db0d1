package identity

import (
	"encoding/pem"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// A name that gets an identity has it alone, and what others read of it is that name.
func FuzzServiceID(f *testing.F) {
	for _, name := range []string{"lake_service", "Web.v2-1", "control-plane", "..", "a/b", "a%2fb", "", "ü", "a\x00"} {
		f.Add(name)
	}
	td := spiffeid.RequireTrustDomainFromString("datapunk")
	f.Fuzz(func(t *testing.T, name string) {
		id, err := ServiceID(td, name)
		if err != nil {
			return
		}
		again, err := spiffeid.FromString(id.String())
		if err != nil || again.Path() != "/"+name || again.TrustDomain() != td || again == ControlPlaneID(td) {
			t.Errorf("%q is %s, which is read as %s (%v)", name, id, again, err)
		}
	})
}

// FuzzRoot is a file that is to be a root.
func FuzzRoot(f *testing.F) {
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n"), "sha256:00")
	f.Add([]byte(""), "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
	f.Add([]byte("x"), "SHA256:E3:B0")
	f.Fuzz(func(t *testing.T, file []byte, text string) {
		if h, err := ParseRootHash(text); err == nil {
			if again, err := ParseRootHash(h.String()); err != nil || again != h {
				t.Errorf("%q is %s, which is %s (%v)", text, h, again, err)
			}
		}
		td, err := TrustDomainOf(file)
		if err == nil && td.IsZero() {
			t.Error("a root of no trust domain")
		}
		if block, _ := pem.Decode(file); err == nil && (block == nil || block.Type != "CERTIFICATE") {
			t.Error("a root that is no certificate")
		}
		_, _ = HashRoot(file)
	})
}
