package admin

import (
	"datapunk.dev/controlplane/admin/api"
)

// rootSteps are those of the replacement of the root, with what each does.
var rootSteps = []struct{ verb, summary string }{
	{"prepare", "Make the next root, and have all proxies trust it beside the first"},
	{"activate", "Have the next root sign the proxies' certificates, once all proxies trust it"},
	{"retire", "End the trust in the first root, once nothing that it signed is in use"},
	{"back", "Return to the phase before"},
}

// rootRoutes are the roots, and the replacement of the first one by the next.
func rootRoutes(src Sources) []route {
	list := []route{read("/roots", "The roots that proxies trust, and how far the replacement of one is", func(*call) (api.Roots, error) {
		return src.roots()
	})}
	for _, step := range rootSteps {
		list = append(list, act("/roots/"+step.verb, step.summary, func(c *call, _ none) (api.Roots, error) {
			if err := src.StepRoot(c.Context(), step.verb); err != nil {
				return api.Roots{}, failed(api.Conflict, err)
			}
			return src.roots()
		}))
	}
	return list
}

func (src *Sources) roots() (api.Roots, error) {
	if roots := src.Roots(); roots.Phase != "" {
		return roots, nil
	}
	return api.Roots{}, &api.Error{Message: "xDS is plaintext: there are no certificates", Reason: api.NotFound}
}
