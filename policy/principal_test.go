package policy

import (
	"testing"

	"pgregory.net/rapid"
)

func TestWhatAPrincipalMatches(t *testing.T) {
	for pattern, want := range map[string]struct {
		kind    Principal
		yes, no []string
	}{
		"spiffe://td/web": {
			Principal{Exact: "spiffe://td/web"},
			[]string{"spiffe://td/web"},
			[]string{"spiffe://td/web2", "spiffe://td/web/x", "spiffe://tdx/web"},
		},
		"spiffe://td/*": {
			Principal{Prefix: "spiffe://td/"},
			[]string{"spiffe://td/web", "spiffe://td/team/web"},
			[]string{"spiffe://td.evil/web", "spiffe://td"},
		},
		"spiffe://td/web.1-*": {
			Principal{Regex: `spiffe://td/web\.1-[A-Za-z0-9._-]*`},
			[]string{"spiffe://td/web.1-a", "spiffe://td/web.1-"},
			[]string{"spiffe://td/webx1-a", "spiffe://td/web.1-a/b"},
		},
		"spiffe://td/*/web": {
			Principal{Regex: "spiffe://td/[A-Za-z0-9._-]*/web"},
			[]string{"spiffe://td/team/web"},
			[]string{"spiffe://td/web", "spiffe://td/a/b/web"},
		},
		"spiffe://td/a-*/*": {
			Principal{Regex: "spiffe://td/a-[A-Za-z0-9._-]*/.+"},
			[]string{"spiffe://td/a-1/x", "spiffe://td/a-1/x/y"},
			[]string{"spiffe://td/a-1", "spiffe://td/a-1/"},
		},
	} {
		p := ParsePrincipal(pattern)
		if p != want.kind {
			t.Errorf("%s is %+v, want %+v", pattern, p, want.kind)
		}
		for _, id := range want.yes {
			if !p.Matches(id) {
				t.Errorf("%s does not match %s", pattern, id)
			}
		}
		for _, id := range want.no {
			if p.Matches(id) {
				t.Errorf("%s matches %s", pattern, id)
			}
		}
	}
}

// Two patterns that are said to have no identity in common have none, and one
// that is said to cover another does.
func TestWhatPrincipalsHaveInCommon(t *testing.T) {
	patterns := []string{
		"spiffe://td/*", "spiffe://td/a", "spiffe://td/ab", "spiffe://td/a/*", "spiffe://td/a*", "spiffe://td/*/a", "spiffe://td/*b",
		"spiffe://td/a-*/*", "spiffe://other/*", "spiffe://other/a",
	}
	rapid.Check(t, func(rt *rapid.T) {
		draw := func(name string) Principal { return ParsePrincipal(rapid.SampledFrom(patterns).Draw(rt, name)) }
		p, o := draw("p"), draw("o")
		id := "spiffe://" + rapid.SampledFrom([]string{"td", "other"}).Draw(rt, "domain") + rapid.StringMatching(`(/[ab-]{1,2}){1,3}`).Draw(rt, "path")
		if p.Matches(id) && o.Matches(id) && !p.meets(o) {
			rt.Errorf("%s is one of %+v and of %+v", id, p, o)
		}
		if o.Matches(id) && p.covers(o) && !p.Matches(id) {
			rt.Errorf("%s is one of %+v and not of %+v", id, o, p)
		}
	})
	all, a := ParsePrincipal("spiffe://td/*"), ParsePrincipal("spiffe://td/a")
	if a.meets(ParsePrincipal("spiffe://td/ab")) || ParsePrincipal("spiffe://td/a/*").meets(ParsePrincipal("spiffe://other/*")) {
		t.Error("strangers meet")
	}
	if !all.covers(a) || !all.covers(ParsePrincipal("spiffe://td/a*")) {
		t.Error("the whole trust domain does not cover a part of it")
	}
}
