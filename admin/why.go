package admin

import (
	"strings"

	"datapunk.dev/controlplane/admin/api"
)

// whyRoutes are what becomes of calls.
func whyRoutes(src Sources) []route {
	return []route{
		read("/why", "What becomes of a call from one service to another, and why", func(c *call) (api.Verdict, error) {
			asked, err := callOf(c)
			if err != nil {
				return api.Verdict{}, &api.Error{Message: err.Error(), Reason: api.Invalid}
			}
			return src.Why(asked)
		},
			param{name: "from", says: "The service that calls.", required: true},
			param{name: "to", says: "The service that is called.", required: true},
			param{name: "method", says: "The method of the request, GET by default."},
			param{name: "path", says: "Its path and query, / by default."},
			param{name: "host", says: "Its Host header; by default the service that is called."},
			param{name: "header", says: "A header of it, NAME=VALUE.", repeats: true}),
	}
}

// callOf is the call of a query.
func callOf(c *call) (api.Call, error) {
	asked := api.Call{From: c.query("from"), To: c.query("to"), Method: strings.ToUpper(c.query("method")), Path: c.query("path"), Host: c.query("host")}
	return asked.With(c.URL.Query()["header"])
}
