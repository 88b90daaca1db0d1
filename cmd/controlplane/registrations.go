package main

import (
	"datapunk.dev/controlplane/admin"
	"datapunk.dev/controlplane/control"
)

// registrationsOf is who is in the catalog, as the admin address says it.
func registrationsOf(r control.Registered) admin.Registrations {
	out := admin.Registrations{Enabled: r.Enabled, Replica: r.Replica, Sweeper: r.Sweeper, Trouble: r.Trouble, Registrations: []admin.Registration{}}
	if r.Enabled {
		out.Interval, out.After = r.Times.Interval.String(), r.Times.After.String()
	}
	for _, i := range r.List {
		out.Registrations = append(out.Registrations, admin.Registration(i))
	}
	return out
}
