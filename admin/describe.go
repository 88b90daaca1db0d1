package admin

import "datapunk.dev/controlplane/admin/api"

// describeRoutes are what is in force of one thing, and where it came from.
func describeRoutes(src Sources) []route {
	return []route{
		read("/describe/{kind}/{name}", "What is in force of a service, a proxy of this replica, or a policy, and where each part came from", func(c *call) (api.Description, error) {
			d, err := src.Describe(c.PathValue("kind"), c.PathValue("name"))
			if err == nil {
				return d, nil
			}
			if c.PathValue("kind") == "proxy" {
				if err := src.elsewhereNode(c, c.PathValue("name")); err != nil {
					return d, err
				}
			}
			return d, failed(api.NotFound, err)
		}),
	}
}
