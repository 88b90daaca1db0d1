package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"go.yaml.in/yaml/v4"

	"datapunk.dev/controlplane/e2e/harness"
	"datapunk.dev/controlplane/e2e/traffic"
	"datapunk.dev/controlplane/internal/tool"
)

// rulesDir has the alert rules that operators load, and caseFiles the series by which
// each of them is tried.
const caseFiles = "testdata/*.rules.test.yaml"

func rulesDir() string { return filepath.Join(tool.Root(), "deploy", "prometheus") }

// TestPromtoolAcceptsOurAlertRules: they are well-formed, and each fires for what it
// is for and for nothing else.
func TestPromtoolAcceptsOurAlertRules(t *testing.T) {
	promtool, err := tool.Find("promtool")
	if err != nil {
		t.Fatal(err)
	}
	files := ruleFiles(t)
	caseFiles, err := filepath.Glob(caseFiles)
	if err != nil || len(caseFiles) != len(files) {
		t.Fatalf("%d files of rules, %d of cases: %v", len(files), len(caseFiles), err)
	}
	for _, args := range [][]string{
		append([]string{"check", "rules", "--lint=all", "--lint-fatal"}, files...),
		append([]string{"test", "rules"}, caseFiles...),
	} {
		if out, err := exec.CommandContext(t.Context(), promtool, args...).CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}

// TestEachAlertIsShownToFireAndNotToFire: a rule without a case in which it fires, or
// without one in which it has had the time to and does not, proves nothing.
func TestEachAlertIsShownToFireAndNotToFire(t *testing.T) {
	fires, quiet := make(map[string]bool), make(map[string]bool)
	alerts := alertRules(t)
	cases, err := filepath.Glob(caseFiles)
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range cases {
		var file struct {
			Tests []struct {
				Series []struct{ Series string } `yaml:"input_series"`
				Cases  []struct {
					At    model.Duration `yaml:"eval_time"`
					Alert string         `yaml:"alertname"`
					Want  []any          `yaml:"exp_alerts"`
				} `yaml:"alert_rule_test"`
			}
		}
		readYAML(t, path, &file)
		for _, test := range file.Tests {
			var series strings.Builder
			for _, s := range test.Series {
				series.WriteString("\n" + s.Series)
			}
			for _, c := range test.Cases {
				rule := alerts[c.Alert]
				switch {
				case len(c.Want) > 0:
					fires[c.Alert] = true
				case time.Duration(c.At) > time.Duration(rule.For) && aboutSeries(rule, series.String()):
					quiet[c.Alert] = true
				}
			}
		}
	}
	for alert := range alerts {
		if !fires[alert] {
			t.Errorf("nothing shows that %s fires", alert)
		}
		if !quiet[alert] {
			t.Errorf("nothing shows that %s does not fire where all is well", alert)
		}
	}
}

// aboutSeries reports whether there are series of what an alert is about.
func aboutSeries(rule alertRule, series string) bool {
	return slices.ContainsFunc(selector.FindAllStringSubmatch(rule.Expr, -1), func(s []string) bool {
		name, _, _ := strings.Cut(strings.TrimPrefix(s[1], "job:"), ":") // of a recorded one, what it is made of
		return strings.Contains(series, "\n"+name)
	})
}

// TestAlertRulesAreAboutMetricsThatThereAre: an alert on a name that nobody exports, or
// on a value of a label that no series has, never fires.
func TestAlertRulesAreAboutMetricsThatThereAre(t *testing.T) {
	m := harness.Start(t, harness.Options{Consul: true, Registers: true})
	m.Add(harness.Spec{Service: "lake_service", ID: "lake-1"})
	m.Ready()
	exported := exportedMetrics(t, m)
	alerts := alertRules(t)
	if len(alerts) == 0 {
		t.Fatal("there are no alerts")
	}
	for name, rule := range alerts {
		wantExported(t, name, rule.Expr, exported)
	}
	for name, expr := range recordingRules(t) {
		wantExported(t, name, expr, exported)
	}
	// What holds for long has one alert for all reasons, whose page leads on.
	page := alertPages(t)["SomethingHeld"]
	reasons := regexp.MustCompile(`(?m)^controlplane_holding\{reason="(\w+)"`).FindAllStringSubmatch(exported, -1)
	if len(reasons) == 0 {
		t.Error("nothing is ever held")
	}
	for _, reason := range reasons {
		named := regexp.MustCompile("`" + reason[1] + "`\\s+(\\w+)").FindStringSubmatch(page)
		if named == nil || alerts[named[1]].Alert == "" {
			t.Errorf("the page of SomethingHeld names no alert for %s", reason[1])
		}
	}
}

// exportedMetrics is the text of all that Prometheus scrapes of a mesh.
func exportedMetrics(t *testing.T, m *harness.Mesh) string {
	t.Helper()
	status, text, err := m.Plane.Get("/metrics")
	if err != nil || status != 200 {
		t.Fatalf("%d, %v", status, err)
	}
	for _, s := range m.Sidecars() {
		r, err := traffic.NewClient(fmt.Sprintf("127.0.0.1:%d", s.MetricsPort)).Get(t.Context(), s.ID, "/metrics")
		if err != nil || r.Status != 200 {
			t.Fatalf("the metrics of %s: %d, %v", s.ID, r.Status, err)
		}
		text += r.Body
	}
	return text
}

// selector is a metric of an expression, with what its labels must be.
var selector = regexp.MustCompile(`(\bup|\b(?:job:)?(?:controlplane|envoy|process)_\w+(?::\w+)?)(\{[^}]*\})?`)

// wantExported fails if an expression is about series that are not there.
func wantExported(t *testing.T, of, expr, exported string) {
	t.Helper()
	recorded := recordingRules(t)
	found := 0
	for _, s := range selector.FindAllStringSubmatch(expr, -1) {
		found++
		name := s[1]
		if _, ok := recorded[name]; ok || name == "up" {
			continue
		}
		family := regexp.MustCompile(`_(bucket|sum|count)$`).ReplaceAllString(name, "")
		if !strings.Contains(exported, "\n# TYPE "+name+" ") && !strings.Contains(exported, "\n# TYPE "+family+" ") {
			t.Errorf("%s: there is no metric %s", of, name)
			continue
		}
		for _, match := range regexp.MustCompile(`(\w+)(=~?)"([^"]*)"`).FindAllStringSubmatch(s[2], -1) {
			for value := range strings.SplitSeq(match[3], "|") {
				if has := regexp.MustCompile(`(?m)^` + name + `\{[^}]*` + match[1] + `="` + value + `"`); !has.MatchString(exported) {
					t.Errorf("%s: no series of %s has %s %q", of, name, match[1], value)
				}
			}
		}
	}
	if found == 0 {
		t.Errorf("%s is about no metric: %s", of, expr)
	}
}

// TestEachAlertHasAPage: who is called by an alert finds what it means, where to look
// and what to do, and no page is of an alert that is gone.
func TestEachAlertHasAPage(t *testing.T) {
	alerts, pages := alertRules(t), alertPages(t)
	for name := range pages {
		if _, ok := alerts[name]; !ok {
			t.Errorf("there is a page of %s, and no such alert", name)
		}
	}
	for name, rule := range alerts {
		body, ok := pages[name]
		if !ok {
			t.Errorf("docs/operations.md has no page of %s", name)
			continue
		}
		if !strings.Contains(body, "- meaning: ") || !regexp.MustCompile("(?m)^- first look: .*`").MatchString(body) || !strings.Contains(body, "- do: ") {
			t.Errorf("%s: its page has no meaning, no command to look with first, or not what to do:\n%s", name, body)
		}
		if url := rule.Annotations["runbook_url"]; !strings.HasSuffix(url, "docs/operations.md#"+strings.ToLower(name)) {
			t.Errorf("%s: its runbook is %q", name, url)
		}
		if !slices.Contains([]string{"critical", "warning", "info"}, rule.Labels["severity"]) {
			t.Errorf("%s: its severity is %q", name, rule.Labels["severity"])
		}
	}
}

// alertPages are the pages of docs/operations.md, by the name of the alert.
func alertPages(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(tool.Root(), "docs", "operations.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(string(text), "\n## Alerts\n")
	if !ok {
		t.Fatal("docs/operations.md has no section of alerts")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	pages := make(map[string]string)
	for _, page := range strings.Split(section, "\n#### ")[1:] {
		name, body, _ := strings.Cut(page, "\n")
		pages[name], _, _ = strings.Cut(body, "\n### ")
	}
	return pages
}

// TestEachFaultNamesItsAlert: whoever reads of a fault knows what would have called them.
func TestEachFaultNamesItsAlert(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(tool.Root(), "docs", "reliability.md"))
	if err != nil {
		t.Fatal(err)
	}
	alerts := alertRules(t)
	rows := regexp.MustCompile(`(?m)^\| (F\d\d) .*\| ([^|]*) \|$`).FindAllStringSubmatch(string(text), -1)
	if len(rows) < 50 {
		t.Fatalf("%d faults", len(rows))
	}
	for _, row := range rows {
		fault, sign := row[1], row[2]
		named := regexp.MustCompile("`([A-Z][a-z]+[A-Z]\\w+)`").FindAllStringSubmatch(sign, -1)
		for _, n := range named {
			if _, ok := alerts[n[1]]; !ok {
				t.Errorf("%s: there is no alert %s", fault, n[1])
			}
		}
		if len(named) == 0 && sign != "nothing" && !strings.HasPrefix(sign, "no alert") {
			t.Errorf("%s names no alert, and does not say that there is none: %s", fault, sign)
		}
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

// alertRule is one alert of a file of rules.
type alertRule struct {
	Alert, Record, Expr string
	For                 model.Duration
	Labels, Annotations map[string]string
}

// alertRules returns each alert by its name.
func alertRules(t *testing.T) map[string]alertRule {
	t.Helper()
	out := make(map[string]alertRule)
	for _, r := range rules(t) {
		if _, twice := out[r.Alert]; twice {
			t.Errorf("there are two alerts %s", r.Alert)
		}
		if r.Alert != "" {
			out[r.Alert] = r
		}
	}
	return out
}

// recordingRules returns the expression of each recorded series.
func recordingRules(t *testing.T) map[string]string {
	t.Helper()
	out := make(map[string]string)
	for _, r := range rules(t) {
		if r.Record != "" {
			out[r.Record] = r.Expr
		}
	}
	return out
}

func rules(t *testing.T) (all []alertRule) {
	t.Helper()
	for _, path := range ruleFiles(t) {
		var file struct {
			Groups []struct{ Rules []alertRule }
		}
		readYAML(t, path, &file)
		for _, g := range file.Groups {
			all = append(all, g.Rules...)
		}
	}
	return all
}

func readYAML(t *testing.T, path string, into any) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(text, into); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}
