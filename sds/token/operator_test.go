package token

import (
	"testing"
	"testing/synctest"
	"time"
)

// An operator's token says who it is and what they may do, ends in time, and is not
// taken for that of a proxy or a control plane, nor theirs for it.
func TestAnOperatorsTokenOpensTheAPIAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, other := newAuthority(t), newAuthority(t)
		raw, err := a.MintOperator("ada", "operate", time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		if who, err := a.VerifyOperator(raw); err != nil || who.Name != "ada" || who.Role != "operate" {
			t.Errorf("it is %+v: %v", who, err)
		}
		if c, err := a.Verify(raw); err == nil {
			t.Errorf("it opens the xDS port as %+v", c)
		}
		if name, err := a.VerifyPeer(raw); err == nil {
			t.Errorf("it passes for the control plane %q", name)
		}
		if _, err := other.VerifyOperator(raw); err == nil {
			t.Error("another authority takes it")
		}
		proxy, err := a.Mint("web", "web-1", time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		peer, err := a.MintPeer("cp-1")
		if err != nil {
			t.Fatal(err)
		}
		for _, foreign := range []string{proxy, peer, ""} {
			if who, err := a.VerifyOperator(foreign); err == nil {
				t.Errorf("%+v is an operator", who)
			}
		}
		time.Sleep(time.Hour)
		if _, err := a.VerifyOperator(raw); err == nil {
			t.Error("it is good for ever")
		}
		for _, c := range []struct {
			name, role string
			ttl        time.Duration
		}{{"", "read", time.Hour}, {"a\n", "read", time.Hour}, {"ada", "", time.Hour}, {"ada", "read", 2 * MaxTTL}, {"ada", "read", 0}} {
			if _, err := a.MintOperator(c.name, c.role, c.ttl); err == nil {
				t.Errorf("%+v was minted", c)
			}
		}
	})
}
