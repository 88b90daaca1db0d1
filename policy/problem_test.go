package policy_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"datapunk.dev/controlplane/policy"
)

// A file with ten different mistakes reports ten, each as an operator sees it.
func TestTenMistakesAreReportedAtOnce(t *testing.T) {
	path := filepath.Join("testdata", "ten-mistakes.yaml")
	_, err := policy.Load([]string{path}, policy.Options{})
	ps := problems(t, err)
	codes := make(map[policy.Code]bool)
	var out bytes.Buffer
	for _, p := range ps {
		codes[p.Code] = true
		p.Format(&out)
	}
	if len(ps) != 10 || len(codes) != 9 { // one code for two numbers out of range
		t.Errorf("%d problems with %d codes", len(ps), len(codes))
	}
	golden := filepath.Join("testdata", "ten-mistakes.txt")
	if *policy.Update {
		if err := os.WriteFile(golden, out.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if out.String() != string(want) {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
	for i, line := range strings.Split(ps.Error(), "\n") {
		if !regexp.MustCompile(`^testdata/ten-mistakes\.yaml:\d+:\d+: MC\d{4}: \S`).MatchString(line) || line != ps[i].String() {
			t.Errorf("the line of an error: %s", line)
		}
	}
}

func TestTheCaretStandsBelowTheMistake(t *testing.T) {
	for _, test := range []struct{ name, text, want string }{
		{"after wide letters", "mesh: {\"x-é\": ü, ñ: 1, name: m}\n", "                 ^"},
		{"below the whole word", "mesh: {name: m, bogus: 1}\n", "                ^^^^^"},
		{"below the quotes too", "mesh: {name: m, version: \"${A!}\"}\n", "                         ^^^^^^^"},
		{"after a tab", "mesh: {name: m,\tbogus: 1}\n", "               \t^^^^^"},
		{"within the line", "mesh: {name: m, version: !!int\n    x}\n", "                         ^"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := parse(test.text)
			ps := problems(t, err)
			if len(ps) != 1 {
				t.Fatalf("got %v", err)
			}
			var out bytes.Buffer
			ps[0].Format(&out)
			lines := strings.Split(out.String(), "\n")
			if len(lines) < 3 || lines[2] != "  | "+test.want {
				t.Errorf("got\n%s", out.String())
			}
		})
	}
}

func TestDidYouMean(t *testing.T) {
	for wrong, want := range map[string]string{
		"max_conections: 1":      "max_connections",
		"max-connections: 1":     "max_connections",
		"maxConnections: 1":      "max_connections",
		"max_requets: 1":         "max_requests",
		"outlier_detections: {}": "outlier_detection",
	} {
		_, err := parse("mesh: {name: m, circuit_breakers: {default: {" + wrong + "}}}")
		if ps := problems(t, err); len(ps) != 1 || ps[0].Hint != fmt.Sprintf("did you mean %q?", want) {
			t.Errorf("%s: %v", wrong, ps)
		}
	}
	_, err := parse("mesh: {name: m, circuit_breakers: {default: {}, zebra: {}}}")
	if ps := problems(t, err); len(ps) != 1 || ps[0].Hint != "known here: default, custom" {
		t.Errorf("nothing is near: %+v", ps)
	}
}

// A token in the file is refused, wherever it stands, and the line is not
// shown: it ends in a log.
func TestASecretIsNotShown(t *testing.T) {
	for _, text := range []string{
		"mesh: {name: m, discovery: {consul: {token: hunter2, bogus: 1}}}\n",
		"mesh: {name: m, discovery: {token: hunter2, bogus: 1}}\n",
		"mesh: {name: m, discovery: {consul: {ACL_Token: hunter2, password: hunter2}}}\n",
	} {
		_, err := parse(text)
		ps := problems(t, err)
		if len(ps) != 2 {
			t.Fatalf("got %v", err)
		}
		for _, p := range ps {
			var out bytes.Buffer
			p.Format(&out)
			if strings.Contains(out.String(), "hunter2") {
				t.Errorf("got\n%s", out.String())
			}
		}
	}
}
