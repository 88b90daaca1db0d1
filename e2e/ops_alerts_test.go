package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"

	"datapunk.dev/controlplane/e2e/harness"
	"datapunk.dev/controlplane/internal/tool"
	"datapunk.dev/controlplane/register"
)

// rulesDir has the alert rules that operators load, and casesFile the series by which
// each of them is tried.
const casesFile = "testdata/registration.rules.test.yaml"

func rulesDir() string { return filepath.Join(tool.Root(), "deploy", "prometheus") }

// TestPromtoolAcceptsOurAlertRules: they are well-formed, and each fires for what it
// is for and for nothing else.
func TestPromtoolAcceptsOurAlertRules(t *testing.T) {
	promtool, err := tool.Find("promtool")
	if err != nil {
		t.Fatal(err)
	}
	files := ruleFiles(t)
	for _, args := range [][]string{
		append([]string{"check", "rules", "--lint=all", "--lint-fatal"}, files...),
		{"test", "rules", casesFile},
	} {
		if out, err := exec.CommandContext(t.Context(), promtool, args...).CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	cases, err := os.ReadFile(casesFile)
	if err != nil {
		t.Fatal(err)
	}
	for alert := range alertRules(t) {
		if !strings.Contains(string(cases), "alertname: "+alert+"\n        exp_alerts:") {
			t.Errorf("nothing shows that %s fires", alert)
		}
	}
}

// TestAlertRulesAreAboutMetricsThatThereAre: an alert on a name that nobody exports
// never fires.
func TestAlertRulesAreAboutMetricsThatThereAre(t *testing.T) {
	m := harness.Start(t, harness.Options{Consul: true, Registers: true})
	status, text, err := m.Plane.Get("/metrics")
	if err != nil || status != 200 {
		t.Fatalf("%d, %v", status, err)
	}
	names := 0
	for alert, expr := range alertRules(t) {
		for _, name := range regexp.MustCompile(`controlplane_\w+`).FindAllString(expr, -1) {
			names++
			if !strings.Contains(text, "\n# TYPE "+name+" ") {
				t.Errorf("%s: a control plane that registers has no metric %s", alert, name)
			}
		}
		for _, match := range regexp.MustCompile(`state=~?"([^"]*)"`).FindAllStringSubmatch(expr, -1) {
			for state := range strings.SplitSeq(match[1], "|") {
				if !slices.Contains(register.States, register.State(state)) {
					t.Errorf("%s: there is no state %s", alert, state)
				}
			}
		}
	}
	if names == 0 {
		t.Error("no rule is about a metric of ours")
	}
}

func ruleFiles(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(rulesDir(), "*.rules.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no rules: %v", err)
	}
	return files
}

// alertRules returns the expression of each alert by its name.
func alertRules(t *testing.T) map[string]string {
	t.Helper()
	out := make(map[string]string)
	for _, file := range ruleFiles(t) {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var rules struct {
			Groups []struct {
				Rules []struct{ Alert, Expr string }
			}
		}
		if err := yaml.Unmarshal(text, &rules); err != nil {
			t.Fatal(err)
		}
		for _, g := range rules.Groups {
			for _, r := range g.Rules {
				out[r.Alert] = r.Expr
			}
		}
	}
	return out
}
