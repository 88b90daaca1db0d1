package why

import (
	"fmt"
	"strings"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	tcpproxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	"google.golang.org/protobuf/proto"

	"datapunk.dev/controlplane/admission"
	"datapunk.dev/controlplane/plan"
	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/translate"
)

// Of follows a call through what a snapshot serves. It is an error if the callers have no
// sidecars, or are served what is not known here.
func Of(s *translate.Snapshot, c Call) (*Verdict, error) {
	w := &walk{s: s, v: &Verdict{Call: c}}
	if err := w.caller(); err != nil {
		return nil, err
	}
	w.known(c.From)
	var err error
	if settings, ok := s.Settings(c.To); ok && settings.Protocol == policy.TCP && c.Host == "" {
		w.v.Protocol = "tcp"
		err = w.tcp()
	} else {
		w.v.Protocol = "http"
		err = w.http()
	}
	if err != nil {
		return nil, err
	}
	settle(w.v)
	return w.v, nil
}

// walk is one call on its way.
type walk struct {
	s     *translate.Snapshot
	v     *Verdict
	view  *resource.View // the caller's
	scope *resource.Scope
	at    map[string][]resource.Profile // sidecars by where they take calls, made when it is asked for
}

// caller finds a sidecar of the caller. All those of one service are served the same
// ways to others. Where none is in the fleet, what one would be served stands for it.
func (w *walk) caller() error {
	other := false
	for p := range w.s.Input.Fleet.Profiles() {
		if p.Service != w.v.Call.From {
			continue
		}
		if p.Kind == resource.Sidecar {
			w.see(w.s, p)
			return nil
		}
		other = true
	}
	if other {
		return fmt.Errorf("the clients of %s are gRPC's own, which have no sidecar: of them this says nothing", w.v.Call.From)
	}
	w.v.Notes = append(w.v.Notes, fmt.Sprintf("no sidecar of %s is connected here: what one would be served stands for it", w.v.Call.From))
	made := plan.Sidecar(w.v.Call.From)
	w.see(w.with(made), made)
	return nil
}

func (w *walk) see(s *translate.Snapshot, p resource.Profile) {
	w.view = s.View(p)
	w.scope = s.Scope(w.view.Scope)
}

// with is the snapshot of a fleet that has one sidecar more.
func (w *walk) with(p resource.Profile) *translate.Snapshot {
	in := w.s.Input
	in.Fleet = in.Fleet.Update([]resource.Profile{p}, nil)
	return translate.Translate(w.s, in)
}

// known notes a caller that may be a misspelled name.
func (w *walk) known(name string) {
	if _, ok := w.s.Settings(name); !ok {
		w.v.Notes = append(w.v.Notes, fmt.Sprintf("%s is no service of the file or of the catalog, and may call like any other", name)+w.near(name))
	}
}

// served is a resource that the caller's sidecar has.
func (w *walk) served(t resource.Type, name string) *resource.Resource {
	if r := w.view.Own.Get(t, name); r != nil {
		return r
	}
	if w.scope == nil {
		return nil
	}
	return w.scope.Sets.Get(t, name)
}

func (w *walk) step(what, source, format string, args ...any) *Step {
	w.v.Steps = append(w.v.Steps, Step{What: what, Says: fmt.Sprintf(format, args...), Source: source})
	return &w.v.Steps[len(w.v.Steps)-1]
}

func (w *walk) source(key string) string { return w.s.Input.Mesh.Source(key).String() }

// http follows a request.
func (w *walk) http() error {
	c := w.v.Call
	if w.view.Own.Get(resource.Listener, "outbound") == nil {
		w.nowhere()
		return nil
	}
	headers := make(map[string]string, len(c.Headers))
	for name, value := range c.Headers {
		headers[strings.ToLower(name)] = value
	}
	host := c.Host
	if host == "" {
		host = c.To
	}
	r := received(admission.Request{Method: c.Method, Path: c.Path, Authority: host, Headers: headers})
	// Hosts with a capital are lowered before the route is looked for.
	r.Authority = strings.ToLower(r.Authority)
	config, err := w.routesFor(r)
	if err != nil || config == nil {
		return err
	}
	return w.follow(config, r)
}

// nowhere ends the call of an application whose sidecar does not listen for it.
func (w *walk) nowhere() {
	w.step("listener", "", "the sidecar of %s has no outbound listener", w.v.Call.From).Details = w.view.Missing
	w.v.End = End{
		Outcome: fails, Says: fmt.Sprintf("%s has nowhere to send the call: its sidecar does not listen for calls", w.v.Call.From),
		Fix: "give the sidecar an outbound port of its own",
	}
}

// scopedRouteOf finds the scoped route whose key is a host; nil: there is none.
func (w *walk) scopedRouteOf(host string) (*routev3.ScopedRouteConfiguration, error) {
	var candidates []*resource.Resource
	for _, name := range []string{host, w.v.Call.To, w.v.Call.To + resource.HostSuffix} { // by its name, most often
		if s := w.served(resource.ScopedRoute, name); s != nil {
			candidates = append(candidates, s)
		}
	}
	if set := w.scopedRoutes(); set != nil {
		for s := range set.All() {
			if strings.EqualFold(s.Name, host) { // the name is the host, with the case of the service
				candidates = append(candidates, s)
			}
		}
	}
	for _, s := range candidates {
		scope, err := scopedRoute(s)
		if err != nil {
			return nil, err
		}
		if keyOf(scope) == host {
			return scope, nil
		}
	}
	return nil, nil
}

// routesFor finds the route configuration of a host: by the scoped route that has it.
func (w *walk) routesFor(r request) (*routev3.RouteConfiguration, error) {
	host, _, _ := strings.Cut(r.Authority, ":")
	found, err := w.scopedRouteOf(host)
	if err != nil {
		return nil, err
	}
	if found == nil {
		w.noHost(host)
		return nil, nil
	}
	config := &routev3.RouteConfiguration{}
	served := w.served(resource.Route, found.GetRouteConfigurationName())
	if served == nil {
		w.step("host", "", "%s leads to the routes %s, which are not there", host, found.GetRouteConfigurationName())
		w.v.End = End{Outcome: fails, Status: 404, Code: "MC3001", Flag: "NR", Says: "the call is answered 404: the routes of " + host + " could not be made"}
		return nil, nil
	}
	if err := proto.Unmarshal(served.Body, config); err != nil {
		return nil, fmt.Errorf("routes %s: %w", served.Name, err)
	}
	w.step("host", "", "%s is found", host)
	return config, nil
}

func (w *walk) scopedRoutes() *resource.Set {
	if w.scope == nil {
		return nil
	}
	return w.scope.Sets[resource.ScopedRoute]
}

func scopedRoute(r *resource.Resource) (*routev3.ScopedRouteConfiguration, error) {
	scope := &routev3.ScopedRouteConfiguration{}
	if err := proto.Unmarshal(r.Body, scope); err != nil {
		return nil, fmt.Errorf("scoped route %s: %w", r.Name, err)
	}
	return scope, nil
}

// keyOf is the host of a scoped route.
func keyOf(s *routev3.ScopedRouteConfiguration) string {
	if fragments := s.GetKey().GetFragments(); len(fragments) == 1 {
		return fragments[0].GetStringKey()
	}
	return ""
}

// tcp follows a connection.
func (w *walk) tcp() error {
	c := w.v.Call
	name := "outbound_tcp_" + c.To
	served := w.view.Own.Get(resource.Listener, name)
	if served == nil {
		w.noPort()
		return nil
	}
	l := &listenerv3.Listener{}
	if err := proto.Unmarshal(served.Body, l); err != nil {
		return fmt.Errorf("listener %s: %w", name, err)
	}
	var proxy tcpproxyv3.TcpProxy
	for _, chain := range l.GetFilterChains() {
		for _, f := range chain.GetFilters() {
			if !f.GetTypedConfig().MessageIs(&proxy) {
				continue
			}
			if err := f.GetTypedConfig().UnmarshalTo(&proxy); err != nil {
				return fmt.Errorf("listener %s: %w", name, err)
			}
		}
	}
	w.step("port", w.source("services."+c.From+".upstreams"), "127.0.0.1:%d leads to %s", l.GetAddress().GetSocketAddress().GetPortValue(), c.To)
	return w.way(100, proxy.GetCluster(), request{})
}
