package main

import (
	"datapunk.dev/controlplane/admin/api"
	"datapunk.dev/controlplane/control"
)

// registrationsOf is who is in the catalog, as the admin address says it.
func registrationsOf(r control.Registered) api.Registrations {
	out := api.Registrations{Enabled: r.Enabled, Replica: r.Replica, Sweeper: r.Sweeper, Trouble: r.Trouble, Registrations: []api.Registration{}}
	if r.Enabled {
		out.Interval, out.After = r.Times.Interval.String(), r.Times.After.String()
	}
	for _, i := range r.List {
		out.Registrations = append(out.Registrations, api.Registration(i))
	}
	return out
}
