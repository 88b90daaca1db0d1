package policy

import (
	"strings"
	"testing"
)

// Each key of the table is found by its path, and something is said of it.
func TestEachKeyIsDescribed(t *testing.T) {
	n := 0
	walk(documentKeys.section(), "", func(path string, k key) {
		if !k.mayBeWritten() {
			return
		}
		n++
		f, err := Describe(path)
		if err != nil || f.Path != path || f.Says == "" || f.Takes == "" {
			t.Errorf("%s: %+v, %v", path, f, err)
		}
	})
	if n < 150 {
		t.Errorf("%d keys: the walk is short", n)
	}
}

func TestAKeyIsDescribedByItsPathInAFile(t *testing.T) {
	for _, path := range []string{
		"mesh.services.lake.retry.attempts", "services.lake.retry.attempts", "services.X.retry.attempts",
	} {
		f, err := Describe(path)
		if err != nil || f.Path != "mesh.services.X.retry.attempts" || f.Takes != "0 to 100" {
			t.Errorf("%s: %+v, %v", path, f, err)
		}
	}
	if f, err := Describe("security.authorization.policies[0].sources"); err != nil || f.Path != "mesh.security.authorization.policies[].sources" {
		t.Errorf("%+v, %v", f, err)
	}
	if f, err := Describe("services.lake"); err != nil || f.Path != "mesh.services.X" || len(f.Keys) == 0 {
		t.Errorf("%+v, %v", f, err)
	}
}

func TestAKeyThatIsNoneIsSpelled(t *testing.T) {
	for path, want := range map[string]string{
		"policies.retry.atempts":       `did you mean "attempts"?`,
		"policies.retry.attempts.more": "has no keys",
		"polices":                      `did you mean "policies"?`,
	} {
		if _, err := Describe(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", path, err, want)
		}
	}
}
