package run

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// Resource is one that an Envoy got from its control plane and runs.
type Resource struct {
	Type    string // cluster, endpoint, listener, scoped_route, route, secret
	Name    string
	Version string    // empty for endpoints: Envoy does not say
	Updated time.Time // zero for endpoints
	Body    json.RawMessage
	State   string // active or warming
}

// Field returns the value at a path of keys and, for arrays, numbers:
// "circuit_breakers.thresholds.0.max_connections". It is nil if there is none.
func (r *Resource) Field(path string) any {
	var v any
	if err := json.Unmarshal(r.Body, &v); err != nil {
		return nil
	}
	for key := range strings.SplitSeq(path, ".") {
		switch at := v.(type) {
		case map[string]any:
			v = at[key]
		case []any:
			var i int
			if _, err := fmt.Sscanf(key, "%d", &i); err != nil || i < 0 || i >= len(at) {
				return nil
			}
			v = at[i]
		default:
			return nil
		}
	}
	return v
}

// Find returns every value under a key, at any depth, in no certain order.
func (r *Resource) Find(key string) []any {
	var v any
	if err := json.Unmarshal(r.Body, &v); err != nil {
		return nil
	}
	var out []any
	var walk func(any)
	walk = func(v any) {
		switch at := v.(type) {
		case map[string]any:
			for k, child := range at {
				if k == key {
					out = append(out, child)
				}
				walk(child)
			}
		case []any:
			for _, child := range at {
				walk(child)
			}
		}
	}
	walk(v)
	return out
}

// Dump is an Envoy's /config_dump.
type Dump struct {
	Resources []*Resource
}

// Get returns a resource, or nil. An active one wins over a warming one.
func (d *Dump) Get(typ, name string) *Resource {
	var found *Resource
	for _, r := range d.Resources {
		if r.Type == typ && r.Name == name && (found == nil || r.State == "active") {
			found = r
		}
	}
	return found
}

// Versions returns the version of every resource but endpoints, as "type name".
// That of a listener has the time of its last update behind it: Envoy keeps the
// version when it changes only a filter chain.
func (d *Dump) Versions() map[string]string {
	out := make(map[string]string)
	for _, r := range d.Resources {
		if r.Type != "endpoint" && r.State == "active" {
			out[r.Type+" "+r.Name] = r.Version
		}
		if r.Type == "listener" && r.State == "active" {
			out[r.Type+" "+r.Name] += " " + r.Updated.Format(time.RFC3339Nano)
		}
	}
	return out
}

// sections says where each type lies in the dump: the list, the field with the
// resource, and the field of that with its name.
var sections = []struct{ kind, list, state, typ, body, name string }{
	{"ClustersConfigDump", "dynamic_active_clusters", "active", "cluster", "cluster", "name"},
	{"ClustersConfigDump", "dynamic_warming_clusters", "warming", "cluster", "cluster", "name"},
	{"EndpointsConfigDump", "dynamic_endpoint_configs", "active", "endpoint", "endpoint_config", "cluster_name"},
	{"RoutesConfigDump", "dynamic_route_configs", "active", "route", "route_config", "name"},
	{"SecretsConfigDump", "dynamic_active_secrets", "active", "secret", "secret", "name"},
	{"SecretsConfigDump", "dynamic_warming_secrets", "warming", "secret", "secret", "name"},
}

func parseDump(configs []map[string]json.RawMessage) (*Dump, error) {
	d := &Dump{}
	for _, config := range configs {
		var kind string
		if err := json.Unmarshal(config["@type"], &kind); err != nil {
			return nil, fmt.Errorf("config dump: %w", err)
		}
		for _, s := range sections {
			if !strings.HasSuffix(kind, "."+s.kind) {
				continue
			}
			if err := d.add(config[s.list], s.typ, s.state, s.body, s.name); err != nil {
				return nil, fmt.Errorf("config dump: %s: %w", s.list, err)
			}
		}
		if strings.HasSuffix(kind, ".ListenersConfigDump") {
			if err := d.addListeners(config["dynamic_listeners"]); err != nil {
				return nil, fmt.Errorf("config dump: listeners: %w", err)
			}
		}
		if strings.HasSuffix(kind, ".ScopedRoutesConfigDump") {
			if err := d.addScopes(config["dynamic_scoped_route_configs"]); err != nil {
				return nil, fmt.Errorf("config dump: scoped routes: %w", err)
			}
		}
	}
	return d, nil
}

func (d *Dump) add(list json.RawMessage, typ, state, body, name string) error {
	if list == nil {
		return nil
	}
	var entries []map[string]json.RawMessage
	if err := json.Unmarshal(list, &entries); err != nil {
		return err
	}
	for _, entry := range entries {
		r := &Resource{Type: typ, State: state, Body: entry[body]}
		var inner map[string]json.RawMessage
		if err := json.Unmarshal(entry[body], &inner); err != nil {
			return err
		}
		optional(entry["version_info"], &r.Version)
		optional(entry["last_updated"], &r.Updated)
		optional(inner[name], &r.Name)
		d.Resources = append(d.Resources, r)
	}
	return nil
}

// addScopes takes the scoped routes, which lie in one list for each listener, all
// of one version.
func (d *Dump) addScopes(list json.RawMessage) error {
	if list == nil {
		return nil
	}
	var entries []struct {
		Version string            `json:"version_info"`
		Updated time.Time         `json:"last_updated"`
		Scopes  []json.RawMessage `json:"scoped_route_configs"`
	}
	if err := json.Unmarshal(list, &entries); err != nil {
		return err
	}
	for _, e := range entries {
		for _, body := range e.Scopes {
			r := &Resource{Type: "scoped_route", State: "active", Body: body, Version: e.Version, Updated: e.Updated}
			var inner map[string]json.RawMessage
			if err := json.Unmarshal(body, &inner); err != nil {
				return err
			}
			optional(inner["name"], &r.Name)
			d.Resources = append(d.Resources, r)
		}
	}
	return nil
}

func (d *Dump) addListeners(list json.RawMessage) error {
	if list == nil {
		return nil
	}
	var entries []struct {
		Name    string `json:"name"`
		Active  *state `json:"active_state"`
		Warming *state `json:"warming_state"`
	}
	if err := json.Unmarshal(list, &entries); err != nil {
		return err
	}
	for _, e := range entries {
		if s := e.Active; s != nil {
			d.Resources = append(d.Resources, &Resource{"listener", e.Name, s.Version, s.Updated, s.Listener, "active"})
		}
		if s := e.Warming; s != nil {
			d.Resources = append(d.Resources, &Resource{"listener", e.Name, s.Version, s.Updated, s.Listener, "warming"})
		}
	}
	return nil
}

type state struct {
	Version  string          `json:"version_info"`
	Updated  time.Time       `json:"last_updated"`
	Listener json.RawMessage `json:"listener"`
}

// optional decodes what may be absent.
func optional(raw json.RawMessage, into any) {
	if raw != nil {
		_ = json.Unmarshal(raw, into) // a field of another shape reads as absent
	}
}
