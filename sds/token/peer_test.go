package token

import (
	"testing"
	"testing/synctest"
	"time"
)

// A control plane's token and a proxy's are not taken for each other, and neither is one
// of another authority.
func TestAPeersTokenOpensNothingElse(t *testing.T) {
	synctest.Test(t, peersToken)
}

func peersToken(t *testing.T) {
	a, other := newAuthority(t), newAuthority(t)
	peer, err := a.MintPeer("cp-1")
	if err != nil {
		t.Fatal(err)
	}
	if name, err := a.VerifyPeer(peer); err != nil || name != "cp-1" {
		t.Errorf("it is %q: %v", name, err)
	}
	if c, err := a.Verify(peer); err == nil {
		t.Errorf("it opens the xDS port as %+v", c)
	}
	if _, err := other.VerifyPeer(peer); err == nil {
		t.Error("another authority takes it")
	}
	proxy, err := a.Mint("web", "web-1", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if name, err := a.VerifyPeer(proxy); err == nil {
		t.Errorf("a proxy passes for the control plane %q", name)
	}
	time.Sleep(peerLife)
	if _, err := a.VerifyPeer(peer); err == nil {
		t.Error("it is good for ever")
	}
}
