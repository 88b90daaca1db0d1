package admin

import (
	"fmt"

	"datapunk.dev/controlplane/admin/api"
	"datapunk.dev/controlplane/xds"
)

// What a replica holds of its own proxies, and what has happened at it, is asked of that
// one: the others say which it is.

// others are the other replicas, and how many Envoys each has.
func (src *Sources) others() []api.Elsewhere {
	is := src.Replicas()
	var all []api.Elsewhere
	for _, r := range is.Replicas {
		if r.Name != is.Replica {
			all = append(all, api.Elsewhere{Replica: r.Name, Address: r.Address, Proxies: r.Streams})
		}
	}
	return all
}

// elsewhere says which replica has a proxy; nil: the one that was asked, or none does.
func (src *Sources) elsewhere(p *xds.ProxyStatus) error {
	is := src.Replicas()
	if p.Replica == "" || p.Replica == is.Replica {
		return nil
	}
	e := &api.Error{
		Message: fmt.Sprintf("%s is connected to the replica %s, not to %s, which was asked", p.Node, p.Replica, is.Replica),
		Reason:  api.Conflict, Hint: "ask that one, at its --admin-address",
	}
	for _, r := range is.Replicas {
		if r.Name == p.Replica && r.Address != "" {
			e.Hint += ": its xDS port is at " + r.Address
		}
	}
	return e
}

// elsewhereNode is that of the proxy with a node.id. Whoever asks knows already that it is
// not here.
func (src *Sources) elsewhereNode(c *call, node string) error {
	fleet, err := src.Fleet(c.Context())
	if err != nil {
		return nil //nolint:nilerr // then nobody knows, and it is said that it is not here
	}
	for i := range fleet.Proxies {
		if fleet.Proxies[i].Node == node {
			return src.elsewhere(&fleet.Proxies[i])
		}
	}
	return nil
}
