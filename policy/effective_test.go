package policy

import (
	"slices"
	"testing"
)

func parsed(t *testing.T, text string) *Mesh {
	t.Helper()
	m, err := Parse([]File{{Name: "mesh.yaml", Data: []byte(text)}}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// Every key that a service may have is among its effective settings: a new row of a
// table wants a line here.
func TestEverySettingOfAServiceIsExported(t *testing.T) {
	m := parsed(t, "mesh: {name: m, services: {a: {circuit_breakers: {retry_budget: {}}, load_balancing: {slow_start: {}}, admission_control: {}, rate_limit: {requests: 1, callers: {X: {requests: 1}}}, health_checks: {interval: 10s}, health_check: {http: /}, subsets: {X: {}}}}}")
	var keys []string
	for _, e := range m.Effective("a") {
		keys = append(keys, e.Key)
	}
	walk(serviceKeys.section(), "", func(path string, k key) {
		leaf := k.section == nil
		if k.mayBeWritten() && leaf && !inList(path) && !slices.Contains(keys, path) {
			t.Errorf("services.X.%s is not exported", path)
		}
	})
	for _, key := range keys {
		if _, err := Describe("services.a." + key); err != nil {
			t.Errorf("exported, and no key: %v", err)
		}
	}
}

func inList(path string) bool { return slices.Contains([]byte(path), '[') }

// A value names the line that it came from, of the nearest section that has it.
func TestAnEffectiveValueNamesItsLine(t *testing.T) {
	m := parsed(t, `mesh:
  name: m
  circuit_breakers:
    default: {max_requests: 10, max_retries: 20}
    custom:
      a: {max_requests: 11}
  services:
    a:
      retry: {attempts: 1}
  policies:
    retry: {attempts: 3, timeout: 2s}
    timeout: {idle: 10m}
`)
	for key, want := range map[string]string{
		"circuit_breakers.max_requests":    "11 mesh.yaml:6:11",
		"circuit_breakers.max_retries":     "20 mesh.yaml:4:33",
		"circuit_breakers.max_connections": "1024 ",
		"retry.attempts":                   "1 mesh.yaml:9:15",
		"retry.timeout":                    "2s mesh.yaml:11:26",
		"timeout.idle":                     "10m mesh.yaml:12:15",
		"timeout.connect":                  "5s ",
		"protocol":                         "http ",
	} {
		found := false
		for _, e := range m.Effective("a") {
			if e.Key == key {
				found = true
				if got := e.Value + " " + e.Source.String(); got != want {
					t.Errorf("%s is %q, want %q", key, got, want)
				}
			}
		}
		if !found {
			t.Errorf("no %s", key)
		}
	}
}
