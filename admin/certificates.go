package admin

import (
	"fmt"

	"datapunk.dev/controlplane/admin/api"
)

// certificateRoutes are the certificates of the proxies, and their renewal.
func certificateRoutes(src Sources) []route {
	return []route{
		read("/certificates", "The authority, and the certificates of the proxies of this replica", func(c *call) (api.Certificates, error) {
			is, err := src.Certificates()
			if err != nil {
				return is, failed(api.Conflict, err)
			}
			node, service := c.query("node"), c.query("service")
			kept := make([]api.Certificate, 0, len(is.Certificates))
			for _, one := range is.Certificates {
				if (node == "" || one.Node == node) && (service == "" || one.Service == service) {
					kept = append(kept, one)
				}
			}
			if node != "" && len(kept) == 0 {
				if err := src.elsewhereNode(c, node); err != nil {
					return api.Certificates{}, err
				}
			}
			is.Elsewhere = src.others()
			is.Certificates, is.Next = page(c, kept, func(one api.Certificate) string { return one.Node })
			return is, nil
		}, append([]param{
			{name: "node", says: "Only that of a proxy."},
			{name: "service", says: "Only those of a service."},
		}, paging...)...),
		act("/certificates/rotate", "Renew the certificate of a proxy, or those of a service, now", func(c *call, which api.Rotate) (api.Done, error) {
			if which == (api.Rotate{}) {
				return api.Done{}, &api.Error{Message: "want a node, or a service", Reason: api.Invalid}
			}
			n, err := src.Rotate(which)
			if err != nil {
				return api.Done{}, failed(api.Conflict, err)
			}
			others := src.others()
			if n == 0 {
				if err := src.elsewhereNode(c, which.Node); err != nil {
					return api.Done{}, err
				}
				e := &api.Error{Message: "no proxy of this replica has such a certificate", Reason: api.NotFound}
				if len(others) > 0 {
					e.Hint = "each replica renews those of its own proxies: say it to the others too, which controlplane status names"
				}
				return api.Done{}, e
			}
			said := fmt.Sprintf("%d certificates are renewed", n)
			if which.Node == "" && len(others) > 0 {
				said += ", of the proxies of this replica: say it to the others too, which controlplane status names"
			}
			return api.Done{Done: said}, nil
		}),
	}
}
