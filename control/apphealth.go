package control

import (
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/register"
	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/sidecar/api"
	"datapunk.dev/controlplane/translate"
	"datapunk.dev/controlplane/xds"
	"datapunk.dev/controlplane/xds/wire"
)

// The health of an application is reported by its Envoy, over HDS, or by its sidecar,
// and goes to the registration of the instance: only what is registered is checked.

// appCheckOf is how the application of a service is checked, nil: not at all.
func (p *Plane) appCheckOf(service string) *policy.AppCheck {
	if !p.registrations.On() {
		return nil
	}
	return p.serving().Service(service).AppCheck
}

// appCheck says what an Envoy is to check of its application.
func (p *Plane) appCheck(profile resource.Profile) proto.Message {
	if !p.registrations.On() {
		return nil
	}
	return translate.AppCheck(p.serving().Service(profile.Service), profile)
}

// checked reports whether the application of a proxy is checked that can have checks
// of these kinds made. One that cannot is passing while its stream lives.
func checked(kinds string, c *policy.AppCheck) bool {
	if c == nil {
		return false
	}
	kind := "http"
	switch {
	case c.TCP:
		kind = "tcp"
	case c.GRPC:
		kind = "grpc"
	}
	return slices.Contains(strings.Split(kinds, ","), kind)
}

// envoyReported is told what an Envoy says of its application.
func (p *Plane) envoyReported(r xds.HealthReport) {
	c := p.appCheckOf(r.Service)
	if c == nil || c.GRPC {
		return // an edit has ended it, and the Envoy is about to hear of that
	}
	health := healthOf(c, r)
	if health == "" {
		return
	}
	p.registrations.Reported(register.Report{Node: r.Node, Service: p.consulService(r.Service), Health: health, Began: r.Began})
}

// tooManyRequests is the HTTP status of an application that is well and has too much
// to do.
const tooManyRequests = 429

// healthOf is what a report of an Envoy says, empty: nothing yet.
func healthOf(c *policy.AppCheck, r xds.HealthReport) register.Health {
	switch {
	case r.Status == wire.HealthUnknown:
		return ""
	case r.Status == wire.HealthHealthy && r.HTTPStatus == tooManyRequests && c.Path != "":
		return register.Warning // a check by TCP goes on telling the status of one by HTTP before it
	case r.Status == wire.HealthHealthy:
		return register.Passing
	case time.Since(r.Told) < c.Timeout:
		return "" // until its first check is over, an Envoy calls unhealthy what it has not checked
	}
	return register.Critical
}

// sidecarsEach is how many sidecars with nothing to check ask again each second, all
// together: that is how long an edit takes to reach them. They ask no more often than
// each idleReport.
const (
	sidecarsEach = 20
	idleReport   = 15 * time.Second
)

// sidecarReported is told what a sidecar says of its application, and returns what it
// is to check.
func (p *Plane) sidecarReported(service, node string, r *api.HealthReport) *api.AppCheck {
	c := p.appCheckOf(service)
	if c == nil || !c.GRPC {
		return &api.AppCheck{Next: max(idleReport, time.Duration(p.registrations.Proxies())*time.Second/sidecarsEach)}
	}
	if r.Health != "" {
		report := register.Report{Node: node, Service: p.consulService(service), Health: register.Health(r.Health)}
		if r.First {
			report.Began = time.Now()
		}
		p.registrations.Reported(report)
	}
	return &api.AppCheck{
		GRPC: true, Interval: c.Interval, Timeout: c.Timeout, UnhealthyThreshold: c.UnhealthyThreshold, HealthyThreshold: c.HealthyThreshold,
		Next: c.ReportInterval(),
	}
}

func (p *Plane) consulService(service string) string {
	return p.mesh.Load().Service(service).ConsulService
}

// Reported is told of the health of an application.
func (r *Registrations) Reported(rep register.Report) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.current != nil {
		r.current.Reported(rep)
	}
}

// On reports whether proxies are registered.
func (r *Registrations) On() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.current != nil
}

// Proxies returns how many are connected that take calls.
func (r *Registrations) Proxies() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.proxies)
}
