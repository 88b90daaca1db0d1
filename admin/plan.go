package admin

import (
	"errors"

	"datapunk.dev/controlplane/admin/api"
)

// maxPlans bounds those under way: each makes the whole fleet's configuration anew.
const maxPlans = 2

// planRoutes say what an edit would do.
func planRoutes(src Sources) []route {
	return []route{
		atMost(maxPlans, ask("/plan", "What a mesh file would change of what the connected fleet is served", func(c *call, edit api.PlanRequest) (api.Plan, error) {
			if len(edit.Files) == 0 {
				return api.Plan{}, &api.Error{Message: "no file is sent along", Reason: api.Invalid}
			}
			is, err := src.Plan(c.Context(), edit.Files)
			return is, failedIf(api.Unavailable, err)
		})),
	}
}

// failedIf is failed for an error that may be none.
func failedIf(reason api.Reason, err error) error {
	if err == nil || errors.As(err, new(*api.Error)) {
		return err
	}
	return failed(reason, err)
}
