package policy_test

import (
	"strings"
	"testing"

	"datapunk.dev/controlplane/policy"
)

// What a file says of places that cannot be meant is said with its line.
func TestPlacesThatMeanNothing(t *testing.T) {
	const several = "mesh: {name: m, discovery: {consul: {datacenter: dc1, datacenters: [dc1, dc2]}}, "
	for _, tt := range []struct {
		name, text string
		code       policy.Code
		want       string // of the message; empty: the file is right
	}{
		{"a zone where the hash decides", "mesh: {name: m, services: {web: {load_balancing: {policy: maglev, hash_policy: [{source_ip: true}], locality: {mode: prefer_local}}}}}", policy.CodeNoEffect, "picks by the hash alone"},
		{"a share without others", "mesh: {name: m, services: {web: {load_balancing: {locality: {mode: prefer_local, min_healthy_percent: 50}}}}}", policy.CodeNoEffect, "without failover"},
		{"a share for the rules of services", several + "load_balancing: {locality: {min_healthy_percent: 50}}, services: {web: {load_balancing: {locality: {failover: [{from: [dc1], to: [dc2]}]}}}}}", "", ""},
		{"a rule for nobody", several + "load_balancing: {locality: {failover: [{from: [], to: [dc2]}]}}}", policy.CodeMissing, "is for no datacenter"},
		{"to itself", several + "load_balancing: {locality: {failover: [{from: [dc1], to: [dc1]}]}}}", policy.CodeConflict, "dc1 is its own"},
		{"to one twice", several + "load_balancing: {locality: {failover: [{from: [dc1], to: [dc2, dc2]}]}}}", policy.CodeConflict, "dc2 is there twice"},
		{"two rules for one", several + "load_balancing: {locality: {failover: [{from: [dc1]}, {from: [dc1], to: [dc2]}]}}}", policy.CodeConflict, "dc1 has a rule already"},
		{"a datacenter that nobody reads", several + "load_balancing: {locality: {failover: [{from: [dc1], to: [dc3]}]}}}", policy.CodeNoEffect, "datacenter dc3 are not read"},
		{"the same of a service", several + "services: {web: {load_balancing: {locality: {failover: [{from: [dc4]}]}}}}}", policy.CodeNoEffect, "datacenter dc4 are not read"},
		{"datacenters without the own", "mesh: {name: m, discovery: {consul: {datacenters: [dc1, dc2]}}}", policy.CodeMissing, "datacenter is missing"},
		{"no name", "mesh: {name: m, discovery: {consul: {datacenter: dc1, datacenters: [a b]}}}", policy.CodeValue, "no name of a datacenter"},
		{"all right", several + "load_balancing: {locality: {failover: [{from: [dc1], to: [dc2]}, {from: [dc2]}]}}}", "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var said []string
			m, err := parse(tt.text)
			if err != nil {
				said = append(said, err.Error())
			} else {
				for _, w := range m.Warnings {
					said = append(said, string(w.Code)+" "+w.Message)
				}
			}
			got := strings.Join(said, "\n")
			if tt.want == "" && got != "" || !strings.Contains(got, tt.want) || !strings.Contains(got, string(tt.code)) {
				t.Errorf("%s\nwant %s %s", got, tt.code, tt.want)
			}
		})
	}
}

// Of whom a mesh reads the instances: the one that is asked first, each once.
func TestDatacentersThatAreFollowed(t *testing.T) {
	for text, want := range map[string]string{
		"datacenter: dc1, datacenters: [dc2, dc1, dc3]": "dc1 dc2 dc3",
		"datacenter: dc1, datacenters: [dc1]":           "",
		"datacenter: dc1":                               "",
	} {
		m, err := parse("mesh: {name: m, discovery: {consul: {" + text + "}}}")
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(m.Discovery.Consul.Followed(), " "); got != want {
			t.Errorf("%s: %q", text, got)
		}
	}
}
