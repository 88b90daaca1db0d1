package configdump

import (
	"encoding/json"
	"errors"
)

// The parts of a dump that are read, as envoy.admin.v3 has them.
type (
	document struct {
		Configs []section `json:"configs"`
	}
	section struct {
		Type string `json:"@type"`

		ActiveClusters  []clusterState `json:"dynamic_active_clusters"`
		WarmingClusters []clusterState `json:"dynamic_warming_clusters"`

		Listeners []listenerState `json:"dynamic_listeners"`

		Routes       []routeState `json:"dynamic_route_configs"`
		ScopedRoutes []struct {
			Scopes []map[string]any `json:"scoped_route_configs"`
			Error  *errorState      `json:"error_state"`
		} `json:"dynamic_scoped_route_configs"`

		Endpoints []struct {
			Config map[string]any `json:"endpoint_config"`
		} `json:"dynamic_endpoint_configs"`

		ActiveSecrets  []secretState `json:"dynamic_active_secrets"`
		WarmingSecrets []secretState `json:"dynamic_warming_secrets"`
	}
	errorState   struct{ Details string }
	clusterState struct {
		Cluster map[string]any `json:"cluster"`
		Error   *errorState    `json:"error_state"`
	}
	listenerState struct {
		Name    string        `json:"name"`
		Active  *listenerBody `json:"active_state"`
		Warming *listenerBody `json:"warming_state"`
		Error   *errorState   `json:"error_state"`
	}
	listenerBody struct {
		Listener map[string]any `json:"listener"`
	}
	routeState struct {
		Config map[string]any `json:"route_config"`
		Error  *errorState    `json:"error_state"`
	}
	secretState struct {
		Name   string         `json:"name"`
		Secret map[string]any `json:"secret"`
		Error  *errorState    `json:"error_state"`
	}
)

// warming is why something is not in use.
const warming = "it is warming"

// read returns what an Envoy has of the control plane.
func read(dump []byte) (map[key]held, error) {
	var doc document
	if err := json.Unmarshal(dump, &doc); err != nil {
		return nil, errors.New("this is no config dump: " + err.Error())
	}
	if len(doc.Configs) == 0 {
		return nil, errors.New("this is no config dump: it has no configs")
	}
	has := make(map[key]held)
	add := func(kind, name string, body map[string]any, waits string, failure *errorState) {
		h := held{waits: waits}
		if failure != nil {
			h.refused = failure.Details
		}
		if body != nil {
			delete(body, "@type") // of the Any around it
			h.body = body
		}
		has[key{kind, name}] = h
	}
	for _, s := range doc.Configs {
		for _, c := range s.ActiveClusters {
			add("cluster", nameIn(c.Cluster, "name"), c.Cluster, "", c.Error)
		}
		for _, c := range s.WarmingClusters {
			add("cluster", nameIn(c.Cluster, "name"), c.Cluster, warming, c.Error)
		}
		for _, l := range s.Listeners {
			var body map[string]any
			waits := ""
			switch {
			case l.Warming != nil:
				body, waits = l.Warming.Listener, warming
			case l.Active != nil:
				body = l.Active.Listener
			default:
				waits = "it has the name, and no listener"
			}
			add("listener", l.Name, body, waits, l.Error)
		}
		for _, r := range s.Routes {
			add("route", nameIn(r.Config, "name"), r.Config, "", r.Error)
		}
		for _, group := range s.ScopedRoutes {
			for _, scope := range group.Scopes {
				add("scoped_route", nameIn(scope, "name"), scope, "", group.Error)
			}
		}
		for _, e := range s.Endpoints {
			add("endpoint", nameIn(e.Config, "cluster_name"), e.Config, "", nil)
		}
		for _, secret := range s.ActiveSecrets {
			add("secret", secret.Name, secret.Secret, "", secret.Error)
		}
		for _, secret := range s.WarmingSecrets {
			add("secret", secret.Name, secret.Secret, warming, secret.Error)
		}
	}
	return has, nil
}

func nameIn(body map[string]any, name string) string {
	s, _ := body[name].(string)
	return s
}
