package admin

import (
	"slices"
	"strings"

	"datapunk.dev/controlplane/admin/api"
	"datapunk.dev/controlplane/xds"
)

// statusRoutes are how the control plane is.
func statusRoutes(src Sources) []route {
	return []route{
		read("/status", "How the control plane and its fleet are", func(c *call) (api.Status, error) {
			is := src.Status()
			ready := src.Readiness()
			is.Ready, is.Waiting, is.Holding, is.Problems = ready.Ready, ready.Waiting, ready.Holding, ready.Problems
			is.Proxies, is.Types = make(map[api.State]int), make(map[string]map[api.State]int)
			// Before it is known which replicas there are, the rest is worth knowing.
			if fleet, err := src.Fleet(c.Context()); err == nil {
				is.Unanswered = fleet.Unanswered
				for _, p := range fleet.Proxies {
					count(&is, proxyOf(p))
				}
			}
			return is, nil
		}),
		read("/names", "The names of services, or of connected proxies, that begin as asked: for completion", func(c *call) (api.Names, error) {
			fleet, err := src.Fleet(c.Context())
			if err != nil {
				return api.Names{}, failed(api.Unavailable, err)
			}
			return api.Names{Names: src.names(c, fleet.Proxies)}, nil
		},
			param{name: "kind", says: "What is named.", values: []string{"service", "proxy"}},
			param{name: "prefix", says: "How they begin."}),
	}
}

func count(is *api.Status, p api.Proxy) {
	is.Proxies[p.State()]++
	for name, t := range p.Types {
		if is.Types[name] == nil {
			is.Types[name] = make(map[api.State]int)
		}
		is.Types[name][t.State]++
	}
}

// maxNames bounds what is completed: nobody reads more.
const maxNames = 200

func (src *Sources) names(c *call, proxies []xds.ProxyStatus) []string {
	var all []string
	if c.query("kind") == "service" {
		all = src.Services()
	} else {
		for _, p := range proxies {
			all = append(all, p.Node)
		}
	}
	prefix := c.query("prefix")
	named := []string{}
	for _, name := range all {
		if strings.HasPrefix(name, prefix) {
			named = append(named, name)
		}
	}
	slices.Sort(named)
	named = slices.Compact(named)
	return named[:min(maxNames, len(named))]
}
