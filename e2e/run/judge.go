package run

import (
	"fmt"

	"github.com/hashicorp/consul/api"
)

// Judge says of an instance that the control plane has registered what an operator may:
// in Consul by a check of his own beside the control plane's, in a file by an entry for
// the same place, which wins.
func (m *Mesh) Judge(i Instance, h Health) error {
	if m.Consul == nil {
		if h == Passing {
			return m.Registry.Deregister(i.ID + "-by-hand")
		}
		i.ID, i.Health = i.ID+"-by-hand", h
		return m.Registry.Register(i)
	}
	node, check := "mesh-"+i.ID, i.ID+":by-hand"
	catalog := m.Consul.API.Catalog()
	var err error
	if h == Passing {
		_, err = catalog.Deregister(&api.CatalogDeregistration{Node: node, CheckID: check}, nil)
	} else {
		_, err = catalog.Register(&api.CatalogRegistration{Node: node, SkipNodeUpdate: true, Check: &api.AgentCheck{
			Node: node, CheckID: check, Name: "by hand", Status: string(h), ServiceID: i.ID, ServiceName: i.Service,
		}}, nil)
	}
	if err != nil {
		return fmt.Errorf("consul: check %s: %w", check, err)
	}
	return nil
}
