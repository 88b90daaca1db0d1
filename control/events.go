package control

import (
	"fmt"
	"strings"

	"datapunk.dev/controlplane/admin/api"
	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/xds"
)

// Events returns what has happened after a cursor, and what is closed when more has.
func (p *Plane) Events(cursor string, limit int) (api.Events, <-chan struct{}) {
	return p.journal.Read(cursor, limit)
}

// present is told of a sidecar that has its listeners, and of its end.
func (p *Plane) present(is xds.Presence, connected bool) {
	e := api.Event{Kind: api.ProxyConnected, Node: is.Node, Service: is.Profile.Service, Message: "it has its listeners"}
	if !connected {
		e.Kind, e.Message = api.ProxyLeft, "its stream has ended"
	}
	p.journal.Add(e)
	p.registrations.Present(is, connected)
}

// rejectedBy is told of a response that a proxy has refused.
func (p *Plane) rejectedBy(node string, of resource.Profile, n *xds.Nack) {
	what := n.Resource
	if what == "" {
		what = "one of " + strings.Join(n.Resources, ", ")
	}
	p.journal.Add(api.Event{Kind: api.ProxyRejected, Node: node, Service: of.Service, Source: n.Source, Message: shorten(fmt.Sprintf("%s %s: %s", n.Type, what, n.Message))})
	p.loop.Nacked(node, of, n)
}
