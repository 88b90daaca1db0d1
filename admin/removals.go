package admin

import (
	"context"
	"fmt"

	"datapunk.dev/controlplane/admin/api"
)

// removalRoutes are what is held of removals, and the decision on it.
func removalRoutes(src Sources) []route {
	return []route{
		read("/removals", "What the catalog's source does not have any more, and what is kept", func(*call) (api.Removals, error) {
			return src.Removals(), nil
		}),
		act("/removals/{id}/accept", "Take a removal: what is gone is called no more", func(c *call, _ none) (api.Done, error) {
			return src.decide(c, true)
		}),
		act("/removals/{id}/refuse", "Keep what is gone, until it is back or accepted", func(c *call, _ none) (api.Done, error) {
			return src.decide(c, false)
		}),
	}
}

func (src *Sources) decide(c *call, accept bool) (api.Done, error) {
	ctx, cancel := context.WithTimeout(c.Context(), decideTime)
	defer cancel()
	id, verb := c.PathValue("id"), "refuse"
	if accept {
		verb = "accept"
	}
	if err := src.DecideRemoval(ctx, id, accept); err != nil {
		return api.Done{}, failed(api.Conflict, err)
	}
	return api.Done{Done: fmt.Sprintf("%s of the removal %s", verb, id)}, nil
}
