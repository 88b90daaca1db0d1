package identity

import (
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

func TestServiceNamesThatGetNoIdentity(t *testing.T) {
	td := spiffeid.RequireTrustDomainFromString("datapunk")
	for _, name := range []string{"", "control-plane", ".", "..", "a/b", "a b", "a%20b", "ü", "a\x00b", "a?b", strings.Repeat("a", 2048)} {
		if id, err := ServiceID(td, name); err == nil {
			t.Errorf("%q became %s", name, id)
		}
	}
	for _, name := range []string{"lake_service", "Web.v2-1"} {
		if _, err := ServiceID(td, name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
}
