package control

import (
	"cmp"
	"errors"
	"slices"

	"datapunk.dev/controlplane/admin/api"
	"datapunk.dev/controlplane/sds"
	"datapunk.dev/controlplane/sds/identity"
)

var errNoAuthority = errors.New("xDS is plaintext: there is no authority, and no proxy has a certificate")

// Certificates are the authority and the certificates of the proxies that are connected
// to this replica, ordered by node.
func (p *Plane) Certificates() (api.Certificates, error) {
	if p.svids == nil {
		return api.Certificates{}, errNoAuthority
	}
	stats := p.svids.Stats()
	is := api.Certificates{
		Authority: api.Authority{
			TrustDomain: p.trustDomain(), Root: p.svids.Rotation().Signs().String(), RootExpires: stats.RootExpires, Chain: p.svids.Chain(),
			Issued: stats.Issued, Failed: stats.Failed, Failing: stats.Failing,
		},
		Certificates: []api.Certificate{},
	}
	services := make(map[string]string)
	for _, proxy := range p.xds.Proxies() {
		services[proxy.Node] = proxy.Service
	}
	holders := p.svids.Holders()
	// Of a proxy with several streams the one with a certificate says most.
	slices.SortFunc(holders, func(a, b sds.Holder) int {
		return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(b.Serial, a.Serial), b.RenewAt.Compare(a.RenewAt))
	})
	holders = slices.CompactFunc(holders, func(a, b sds.Holder) bool { return a.Node == b.Node })
	for _, h := range holders {
		is.Certificates = append(is.Certificates, api.Certificate{
			Node: h.Node, Service: services[h.Node], SPIFFEID: h.SPIFFEID, Serial: h.Serial, Begins: h.NotBefore, Expires: h.NotAfter,
			RenewAt: h.RenewAt, Adopted: h.Adopted, Error: h.Error,
		})
	}
	return is, nil
}

// Rotate has the certificates of a node, or of all proxies of a service, renewed now, and
// says how many.
func (p *Plane) Rotate(which api.Rotate) (int, error) {
	if p.svids == nil {
		return 0, errNoAuthority
	}
	id := ""
	if which.Service != "" {
		service, err := identity.ServiceID(p.svids.TrustDomain(), which.Service)
		if err != nil {
			return 0, err
		}
		id = service.String()
	}
	return p.svids.Rotate(func(node, spiffeID string) bool {
		return (which.Node == "" || node == which.Node) && (id == "" || spiffeID == id)
	}), nil
}
