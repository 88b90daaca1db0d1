package control

import (
	"fmt"

	"datapunk.dev/controlplane/admin/api"
	"datapunk.dev/controlplane/describe"
)

// Description is what is in force of a service, of a policy, or of a proxy that is
// connected to this replica.
func (p *Plane) Description(kind, name string) (api.Description, error) {
	snapshot := p.loop.Status().Snapshot
	if snapshot == nil {
		return api.Description{}, &api.Error{Message: "nothing is served yet", Reason: api.Unavailable}
	}
	var d *api.Description
	var err error
	switch kind {
	case "service":
		d, err = describe.Service(snapshot, name)
	case "policy":
		d, err = describe.Policy(snapshot, name)
	case "proxy":
		err = fmt.Errorf("no proxy %s is connected to this replica", name)
		for _, proxy := range p.xds.Proxies() {
			if proxy.Node == name {
				d, err = describe.Proxy(snapshot, name, proxy.Profile)
			}
		}
	default:
		err = fmt.Errorf("%s is none of service, proxy and policy", kind)
	}
	if err != nil {
		return api.Description{}, err
	}
	return *d, nil
}
