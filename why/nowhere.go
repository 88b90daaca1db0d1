package why

import (
	"fmt"
	"slices"
	"strings"

	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/spelling"
)

// noHost ends a request whose host the caller's sidecar has no routes for.
func (w *walk) noHost(host string) {
	from := w.v.Call.From
	end := End{Outcome: fails, Status: 404, Flag: "NR", Code: "MC3001"}
	callee, known := w.serviceNamed(strings.TrimSuffix(host, resource.HostSuffix))
	switch {
	case !known:
		end.Says = fmt.Sprintf("the call is answered 404: %s is the host of no service of the mesh", host)
		end.Fix = "correct the host, or register the service" + w.near(host)
	case callee.Protocol == policy.TCP:
		end.Code = "MC3006"
		end.Says = fmt.Sprintf("the call is answered 404: %s is a service of TCP, which has no host", callee.Name)
		end.Fix = w.portFix(callee.Name)
	case !w.declares(callee.Name):
		end.Code = "MC3002"
		end.Says = fmt.Sprintf("the call is answered 404: %s declares its upstreams, and %s is none of them", from, callee.Name)
		end.Fix = fmt.Sprintf("add %s to services.%s.upstreams (%s)", callee.Name, from, w.source("services."+from+".upstreams"))
	default:
		end.Says = fmt.Sprintf("the call is answered 404: there are no routes to %s", callee.Name)
		end.Fix = "see what could not be made" + w.heldOf(callee.Name)
	}
	w.step("host", "", "no scoped route of %s has the host %s", from, host)
	w.v.End = end
}

// noPort ends a call of a service of TCP that the caller has no port for.
func (w *walk) noPort() {
	from, to := w.v.Call.From, w.v.Call.To
	w.step("port", "", "the sidecar of %s has no port for %s", from, to).Details = w.view.Missing
	end := End{Outcome: fails, Code: "MC3006", Says: fmt.Sprintf("%s cannot call %s: its sidecar has no port for that service of TCP", from, to)}
	settings, _ := w.s.Settings(from)
	if slices.ContainsFunc(settings.Upstreams, func(u policy.Upstream) bool { return u.Service == to && u.LocalBindPort != 0 }) {
		end.Fix = "see what could not be made" + w.heldOf(to)
	} else {
		end.Fix = w.portFix(to)
	}
	w.v.End = end
}

func (w *walk) portFix(to string) string {
	from := w.v.Call.From
	return fmt.Sprintf("declare it with a port, services.%s.upstreams: [{service: %s, local_bind_port: PORT}]%s", from, to, w.behind("services."+from+".upstreams"))
}

// behind is the place of a key behind a text, if the file has the key.
func (w *walk) behind(key string) string {
	if at := w.source(key); at != "" {
		return " (" + at + ")"
	}
	return ""
}

// serviceNamed is the service that a host means.
func (w *walk) serviceNamed(host string) (*policy.Service, bool) {
	for name := range w.s.Services() {
		if strings.EqualFold(name, host) {
			settings, ok := w.s.Settings(name)
			return settings, ok
		}
	}
	return nil, false
}

// declares reports whether the caller may call a service as far as its upstreams go.
func (w *walk) declares(callee string) bool {
	settings, _ := w.s.Settings(w.v.Call.From)
	return settings.AllUpstreams || slices.ContainsFunc(settings.Upstreams, func(u policy.Upstream) bool { return u.Service == callee })
}

// heldOf says why resources of a service could not be made.
func (w *walk) heldOf(service string) string {
	for _, h := range w.s.Held {
		if of, _ := serviceOf(strings.TrimPrefix(h.Name, "outbound/")); of == service {
			return fmt.Sprintf(" (%s %s: %s)", h.Type, h.Name, h.Cause)
		}
	}
	return ""
}

// near is a name that may have been meant.
func (w *walk) near(name string) string {
	if near := spelling.Nearest(name, w.s.Services()); near != "" && near != name {
		return "; did you mean " + near + "?"
	}
	return ""
}
