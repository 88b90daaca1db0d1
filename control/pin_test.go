package control

import (
	"log/slog"
	"strings"
	"testing"

	"datapunk.dev/controlplane/admin/api"
	"datapunk.dev/controlplane/policy"
)

// What waits behind a pin is looked at again when it is released: the process may not be
// able to go on with it any more, and the pin stays then.
func TestAReleaseServesNothingThatThisProcessCannotGoOnWith(t *testing.T) {
	behind, err := policy.Parse([]policy.File{{Name: "mesh.yaml", Data: []byte("mesh: {name: datapunk}")}}, policy.Options{})
	if err != nil {
		t.Fatal(err)
	}
	p := &Plane{Options: Options{Log: slog.New(slog.DiscardHandler), Plaintext: true}, pin: &pin{Revision: "0123456789ab", behind: behind}}
	err = p.ReleasePin(api.Caller{Name: "ada"}, "0123456789ab")
	if err == nil || !strings.Contains(err.Error(), "there is nothing to serve instead: security.mtls.enabled is true") || p.pinIs() == nil {
		t.Errorf("%v; the pin is %v", err, p.pinIs())
	}
}
