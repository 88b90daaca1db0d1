package features

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	"google.golang.org/protobuf/proto"

	"datapunk.dev/controlplane/internal/everykey"
	"datapunk.dev/controlplane/policy"
)

const everyCatalog = `services:
  web:
    - {id: web-1, address: 10.0.0.1, port: 8080, datacenter: a, tags: [old, rack=1], meta: {mesh_port: "15008", version: "1", rack: "1"}}
    - {id: web-2, address: 10.0.0.4, port: 8080, datacenter: b, tags: [rack=2], meta: {mesh_port: "15008", rack: "2"}, health: warning}
  db: [{id: db-1, address: 10.0.0.2, port: 5432, meta: {mesh_port: "15008"}}]
  other: [{id: other-1, address: 10.0.0.3, port: 8080, meta: {mesh_port: "15008"}}]
`

// TestTheListOfEditsThatDrainIsWhole edits every key of the mesh file, and looks
// which listeners the proxies are sent anew: Envoy drains the connections of the
// last one. docs/operations.md has the list:
//
//	go test ./features -run TestTheListOfEdits -update
func TestTheListOfEditsThatDrainIsWhole(t *testing.T) {
	edits, err := everykey.Edits()
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range edits {
		for _, text := range []string{e.Before, e.After} {
			if _, err := policy.Parse([]policy.File{{Name: "mesh.yaml", Data: []byte(text)}}, policy.Options{LookupEnv: os.LookupEnv}); err != nil {
				t.Errorf("the edit of %s: %v", e.Key, err)
			}
		}
	}
	if t.Failed() {
		return
	}
	drains := make(map[string][]string) // by what of whom: the keys
	inMesh(t, everykey.Base(), everyCatalog, func(m *mesh) {
		clients := make(map[string]*client)
		for _, service := range []string{"shop", "web", "db"} {
			p := sidecar(service)
			p.Region = "a"
			if service == "shop" {
				p.MetricsPort = 9102 // as bootstraps have it; without it the file's holds
			}
			clients[service] = m.delta(p)
			defer clients[service].stop()
		}
		for _, e := range edits {
			m.edit(e.Before)
			last := make(map[string]map[string]*listenerv3.Listener)
			for service, c := range clients {
				c.moved()
				last[service] = c.listeners()
			}
			m.edit(e.After)
			moved := make(map[string][]string)
			quiet := true
			for service, c := range clients {
				for _, what := range c.moved() {
					quiet = false
					name, ok := strings.CutPrefix(strings.TrimPrefix(what, "-"), "listener ")
					if ok && last[service][name] != nil && !inPlace(last[service][name], c.listener(name)) {
						moved[name] = append(moved[name], service)
					}
				}
			}
			if len(moved) > 0 && e.Refused == "" {
				where := drained(moved)
				drains[where] = append(drains[where], e.Key)
			}
			if quiet && !quietly(e.Key) {
				t.Errorf("%s: nobody was sent anything: its edit shows nothing", e.Key)
			}
		}
	})

	page := filepath.Join("..", "docs", "operations.md")
	old, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	begin, end := []byte("<!-- edits that drain: generated, see features/drains_test.go -->\n"), []byte("<!-- end -->\n")
	head, rest, found := bytes.Cut(old, begin)
	_, tail, closed := bytes.Cut(rest, end)
	if !found || !closed {
		t.Fatalf("%s has no place for the list", page)
	}
	list := "| an edit of | has the connections drained of |\n|---|---|\n"
	for _, where := range slices.Sorted(maps.Keys(drains)) {
		list += fmt.Sprintf("| `%s` | %s |\n", strings.Join(drains[where], "`, `"), where)
	}
	whole := slices.Concat(head, begin, []byte(list), end, tail)
	if *update {
		if err := os.WriteFile(page, whole, 0o600); err != nil {
			t.Fatal(err)
		}
	} else if !bytes.Equal(whole, old) {
		t.Errorf("%s does not have the list of edits that drain; run with -update and see whether it must be so long\n%s", page, list)
	}
}

// drained says of which listeners of which proxies connections are drained. A
// listener of which Envoy adds or removes a filter chain in place is told apart:
// see inPlace.
func drained(moved map[string][]string) string {
	whose := make(map[string][]string)
	for name, services := range moved {
		slices.Sort(services)
		who := strings.Join(services, " and ")
		switch {
		case name == "metrics":
			who = "any proxy: Prometheus has it, and comes again"
		case strings.HasPrefix(name, "outbound_tcp_"):
			name, who = "outbound_tcp_…", "the proxies that have one"
			if len(services) == 1 && services[0] == "web" {
				who = "the proxies of X"
			}
		case who == "web":
			who = "the proxies of X"
		case who == "db":
			who = "the proxies of services of TCP"
		case who == "db and shop and web", who == "shop and web" && name == "inbound" && len(moved["outbound"]) == 0, name == "inbound" && who == "shop and web" && len(moved["outbound"]) == 3:
			who = "every proxy"
		}
		whose[who] = append(whose[who], "`"+name+"`")
	}
	var parts []string
	for _, who := range slices.Sorted(maps.Keys(whose)) {
		names := whose[who]
		slices.Sort(names)
		parts = append(parts, strings.Join(slices.Compact(names), ", ")+" of "+who)
	}
	return strings.Join(parts, "; ")
}

// inPlace reports whether a listener differs from its last state by filter
// chains alone that came: Envoy leaves the others as they are.
func inPlace(before, after *listenerv3.Listener) bool {
	if after == nil {
		return false // it is gone
	}
	a, b := proto.CloneOf(before), proto.CloneOf(after)
	a.FilterChains, b.FilterChains = nil, nil
	if !proto.Equal(a, b) {
		return false
	}
	chains := func(l *listenerv3.Listener) map[string]*listenerv3.FilterChain {
		named := make(map[string]*listenerv3.FilterChain)
		for _, c := range l.GetFilterChains() {
			named[c.GetName()] = c
		}
		return named
	}
	is := chains(after)
	for name, c := range chains(before) {
		if !proto.Equal(is[name], c) {
			return false
		}
	}
	return true
}

// quietly reports whether a key is for others than the proxies, or reaches them on
// another stream: health_check by HDS.
func quietly(key string) bool {
	return slices.ContainsFunc([]string{
		"name", "version", "edits.", "discovery.", "telemetry.metrics.scrape_interval", "telemetry.metrics.provider", "telemetry.access_logs.provider",
		"security.mtls.cert_", "security.mtls.root", "security.mtls.ca.", "backoff.multiplier", "services.X.health_check.",
	}, func(s string) bool {
		return key == s || strings.HasSuffix(s, ".") && strings.HasPrefix(key, s) || strings.Contains(s, ".") && strings.Contains(key, s)
	})
}
