package codes_test

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"datapunk.dev/controlplane/codes"
	"datapunk.dev/controlplane/policy"
)

var update = flag.Bool("update", false, "write docs/errors.md")

// docs/errors.md is made of the table: go test ./codes -update.
func TestThePageSaysWhatTheTableSays(t *testing.T) {
	path := filepath.Join("..", "docs", "errors.md")
	if *update {
		if err := os.WriteFile(path, []byte(codes.Page()), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	page, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(page) != codes.Page() {
		t.Error("docs/errors.md is not what the table says: go test ./codes -update")
	}
}

// Whatever code a file can be reported with is in the table, and each code of
// the table below MC22 is one of those.
func TestTheTableHasEveryCodeOfAFile(t *testing.T) {
	reported := make(map[string]bool)
	for _, path := range []string{filepath.Join("..", "policy", "code.go"), filepath.Join("..", "yamlfile", "code.go")} {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, match := range regexp.MustCompile(`"(MC\d{4})"`).FindAllSubmatch(text, -1) {
			code := string(match[1])
			if reported[code] {
				t.Errorf("%s stands twice", code)
			}
			reported[code] = true
			if _, ok := codes.Lookup(code); !ok {
				t.Errorf("%s is not in the table", code)
			}
		}
	}
	seen := make(map[string]bool)
	for _, e := range codes.All() {
		if seen[e.Code] {
			t.Errorf("%s is twice in the table", e.Code)
		}
		seen[e.Code] = true
		if e.Code < "MC2200" && !reported[e.Code] {
			t.Errorf("%s is in the table and never reported", e.Code)
		}
		if e.Title == "" || e.Fix == "" || !strings.HasSuffix(e.Why, ".") || !strings.HasSuffix(e.Fix, ".") {
			t.Errorf("%s does not say enough: %+v", e.Code, e)
		}
	}
}

// Each example of a file makes its code.
func TestEachExampleMakesItsCode(t *testing.T) {
	for _, e := range codes.All() {
		if e.Code >= "MC2200" {
			continue // of other packages, which have this test too
		}
		t.Run(e.Code, func(t *testing.T) {
			m, err := policy.Parse([]policy.File{{Name: "mesh.yaml", Data: []byte(e.File())}}, policy.Options{Environment: e.Environment})
			var found policy.Problems
			if err != nil && !errors.As(err, &found) {
				t.Fatal(err)
			}
			if m != nil {
				found = m.Warnings
			}
			if !slices.ContainsFunc(found, func(p policy.Problem) bool { return string(p.Code) == e.Code }) {
				t.Errorf("the example makes %v", found)
			}
			if codes.SeverityOf(e.Code) == codes.Warning && err != nil {
				t.Errorf("a file with a warning loads, and this does not: %v", err)
			}
		})
	}
}

// A person who has an access log has a flag, and no code.
func TestAResponseFlagLeadsToItsCode(t *testing.T) {
	if e, ok := codes.Lookup("uh"); !ok || e.Code != "MC3003" || !strings.Contains(e.Text(), "answered 503") {
		t.Errorf("got %+v", e)
	}
	if _, ok := codes.Lookup(""); ok {
		t.Error("nothing leads to a code")
	}
}
