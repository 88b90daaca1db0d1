package admin

import (
	"slices"

	"datapunk.dev/controlplane/admin/api"
	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/xds"
)

// states are those that proxies are asked for by.
var states = []string{string(api.NotSent), string(api.Pending), string(api.Synced), string(api.Rejected)}

// maxDecoded bounds the proxies whose resources are decoded at a time: each has a
// thousand of them in a large mesh.
const maxDecoded = 4

// proxyRoutes are the state of each proxy.
func proxyRoutes(src Sources) []route {
	return []route{
		read("/proxies", "The proxies of all replicas, and the state of each type on them", func(c *call) (api.Proxies, error) {
			fleet, err := src.Fleet(c.Context())
			if err != nil {
				return api.Proxies{}, failed(api.Unavailable, err)
			}
			service, state := c.query("service"), c.query("state")
			all := make([]api.Proxy, 0, len(fleet.Proxies))
			for _, p := range fleet.Proxies {
				one := proxyOf(p)
				if (service == "" || p.Service == service) && (state == "" || string(one.State()) == state) {
					all = append(all, one)
				}
			}
			answer := api.Proxies{Unanswered: fleet.Unanswered}
			answer.Proxies, answer.Next = page(c, all, func(p api.Proxy) string { return p.Node })
			return answer, nil
		}, append(slices.Clone(paging),
			param{name: "service", says: "Only those of a service."},
			param{name: "state", says: "Only those whose worst state is this one.", values: states})...),
		read("/proxies/{node}", "One proxy, by its node.id", func(c *call) (api.Proxy, error) {
			p, err := src.proxy(c)
			if err != nil {
				return api.Proxy{}, err
			}
			return proxyOf(*p), nil
		}),
		atMost(maxDecoded, read("/proxies/{node}/resources", "What a proxy is served, without keys", func(c *call) (api.Resources, error) {
			p, err := src.proxy(c)
			if err != nil {
				return api.Resources{}, err
			}
			if err := src.elsewhere(p); err != nil {
				return api.Resources{}, err
			}
			all, err := src.Resources(p.Node, c.query("type"))
			if err != nil {
				return api.Resources{}, failed(api.Conflict, err)
			}
			return api.Resources{Node: p.Node, Service: p.Service, Resources: all}, nil
		}, param{name: "type", says: "Only those of a type.", values: typeNames()})),
	}
}

// typeNames are those of the types of resources.
func typeNames() []string {
	names := make([]string, 0, resource.NumTypes)
	for t := range resource.NumTypes {
		names = append(names, t.String())
	}
	return names
}

// proxy returns the one that the path names.
func (src *Sources) proxy(c *call) (*xds.ProxyStatus, error) {
	fleet, err := src.Fleet(c.Context())
	if err != nil {
		return nil, failed(api.Unavailable, err)
	}
	node := c.PathValue("node")
	for i := range fleet.Proxies {
		if fleet.Proxies[i].Node == node {
			return &fleet.Proxies[i], nil
		}
	}
	e := &api.Error{Message: "no proxy with the node.id " + node + " is connected", Reason: api.NotFound}
	for _, u := range fleet.Unanswered {
		e.Hint = "it may be at the replica " + u.Replica + ", which does not answer: " + u.Why
	}
	return nil, e
}

// proxyOf is a proxy in the words of the API.
func proxyOf(p xds.ProxyStatus) api.Proxy {
	f := p.Profile
	out := api.Proxy{
		Node: p.Node, Service: p.Service, Peer: p.Peer, Agent: p.Agent, Version: p.Version, Protocol: p.Protocol,
		Connected: p.Connected, Replica: p.Replica, Missing: p.Missing, Roots: p.Roots,
		Profile: api.Profile{
			Kind: f.Kind.String(), Address: f.Address, Zone: f.Zone, AppAddress: f.AppAddress, AppPort: f.AppPort,
			MeshPort: f.MeshPort, OutboundPort: f.OutboundPort, MetricsPort: f.MetricsPort,
		},
		Types: make(map[string]api.TypeStatus, len(p.Types)),
	}
	if c := p.Certificate; c != nil {
		out.Certificate = &api.ProxyCertificate{Version: c.Version, Serial: c.Serial, Expires: c.Expires}
	}
	for name, t := range p.Types {
		one := api.TypeStatus{State: api.State(t.State), Sent: t.Sent, Acknowledged: t.Acknowledged}
		if n := t.LastNack; n != nil {
			one.LastNack = &api.Nack{
				Time: n.Time, Type: n.Type, Nonce: n.Nonce, Version: n.Version, Message: n.Message, Resources: n.Resources,
				More: n.More, Resource: n.Resource, Source: n.Source, Cause: n.Cause,
			}
		}
		for _, q := range t.Quarantined {
			one.Quarantined = append(one.Quarantined, api.Quarantined(q))
		}
		out.Types[name] = one
	}
	return out
}

// registrationRoutes are who is in the catalog.
func registrationRoutes(src Sources) []route {
	return []route{read("/registrations", "Who is in the catalog, by which replica, and why not", func(*call) (api.Registrations, error) {
		return src.Registrations(), nil
	})}
}

// replicaRoutes are the control planes of the mesh.
func replicaRoutes(src Sources) []route {
	return []route{read("/replicas", "The control planes of the mesh, as this one knows them", func(*call) (api.Replicas, error) {
		return src.Replicas(), nil
	})}
}
