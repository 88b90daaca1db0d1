package admin

import (
	"datapunk.dev/controlplane/admin/api"
)

// maxChecks bounds those under way: they ask Consul, and go through the whole mesh file.
const maxChecks = 2

// checkRoutes are what the control plane needs, and what is likely a mistake.
func checkRoutes(src Sources) []route {
	return []route{
		atMost(maxChecks, read("/checks", "Whether the control plane has what it needs", func(c *call) (api.Checks, error) {
			return src.Checks(c.Context()), nil
		})),
		atMost(maxChecks, read("/findings", "What is likely a mistake in the mesh file in force, beside the catalog and the fleet", func(*call) (api.Findings, error) {
			is, err := src.Findings()
			return is, failedIf(api.Unavailable, err)
		})),
	}
}
