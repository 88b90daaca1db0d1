package why

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/proto"

	"datapunk.dev/controlplane/admission"
	"datapunk.dev/controlplane/plan"
	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/watch"
)

// way takes a part of the calls to a cluster, to its instances, and into the sidecars of
// these.
func (w *walk) way(share float64, cluster string, r request) error {
	way := Way{Percent: share, Cluster: cluster}
	u, err := w.upstreamOf(cluster)
	if err != nil {
		return err
	}
	if u == nil {
		add(&way, "cluster", "", "%s is not there", cluster)
		way.End = End{
			Outcome: fails, Status: 503, Code: "MC3004", Flag: "NC", Says: "the call is answered 503: its route leads to the cluster " + cluster + ", which is not there",
			Fix: "see what could not be made" + w.heldOf(cluster),
		}
		w.v.Ways = append(w.v.Ways, way)
		return nil
	}
	way.Cluster = u.name
	service, _ := serviceOf(u.name)
	way.Service = service
	callable := u.callable()
	w.endpoints(&way, u)
	if len(callable) == 0 {
		way.End = w.nobody(service, u)
		w.v.Ways = append(w.v.Ways, way)
		return nil
	}
	var ends []End
	said := make(map[string]bool)
	known := make(map[calleeKey]calleeEnd)
	for _, h := range callable {
		key, err := w.calleeOf(u, h)
		if err != nil {
			return err
		}
		end, ok := known[key]
		if !ok {
			if end, err = w.enter(service, key, r); err != nil {
				return err
			}
			known[key] = end
		}
		for _, s := range end.steps {
			if text := s.What + s.Says; !said[text] {
				said[text] = true
				way.Steps = append(way.Steps, s)
			}
		}
		ends = append(ends, end.End)
	}
	way.End = merged(ends, nil)
	w.v.Ways = append(w.v.Ways, way)
	return nil
}

// add notes a step of a way, and returns it.
func add(way *Way, what, source, format string, args ...any) *Step {
	way.Steps = append(way.Steps, Step{What: what, Says: fmt.Sprintf(format, args...), Source: source})
	return &way.Steps[len(way.Steps)-1]
}

// endpoints says which instances a cluster has, and of each that is not called why.
func (w *walk) endpoints(way *Way, u *upstream) {
	service, subset := serviceOf(u.name)
	names := make(map[string]string) // of the instances, by address
	type left struct{ id, why string }
	var out []left
	for i, dial := range w.s.Dialed(service, subset) {
		if dial.LeftOut != "" {
			out = append(out, left{i.ID, dial.LeftOut})
			continue
		}
		names[addressOf(i, dial.Port)] = i.ID
	}
	step := add(way, "endpoints", "", "cluster %s: %d of %d instances may be called", u.name, len(u.callable()), len(u.hosts)+len(out))
	if u.panics {
		step.Says += ", unhealthy ones among them: too few are healthy (load_balancing.panic_threshold)"
		step.Source = w.source("services." + service + ".load_balancing.panic_threshold")
	}
	for _, h := range u.hosts {
		text := h.address
		if id := names[h.address]; id != "" {
			text = id + " at " + h.address
		}
		switch {
		case h.health == corev3.HealthStatus_UNHEALTHY:
			text += ": the catalog says that it is critical"
		case !h.healthy:
			text += ": " + strings.ToLower(h.health.String())
		case !h.called:
			text += ": healthy, and others come first"
		default:
			text += ": healthy"
		}
		step.Details = append(step.Details, text)
	}
	for _, l := range out {
		step.Details = append(step.Details, l.id+" is left out: "+l.why)
	}
}

func addressOf(i *watch.Instance, port uint16) string {
	host := i.Host
	if i.Address.IsValid() {
		host = i.Address.Unmap().String()
	}
	return net.JoinHostPort(host, strconv.Itoa(int(port)))
}

// nobody ends a call that no instance can take.
func (w *walk) nobody(service string, u *upstream) End {
	end := End{Outcome: fails, Status: 503, Code: "MC3003", Flag: "UH"}
	_, subset := serviceOf(u.name)
	of, become := service, "is answered 503"
	if subset != "" {
		of = "subset " + subset + " of " + service
	}
	if w.v.Protocol == "tcp" {
		become, end.Status = "is closed at once", 0
	}
	known := 0
	for range w.s.Dialed(service, "") {
		known++
	}
	switch {
	case known == 0:
		end.Says = fmt.Sprintf("the call %s: no instance of %s is registered", become, service)
		end.Fix = "register one, or correct services." + service + ".consul_service"
	case len(u.hosts) == 0:
		end.Says = fmt.Sprintf("the call %s: the catalog has %d instances of %s, and none of %s may be called", become, known, service, of)
		end.Fix = "change what each is left out for"
	default:
		end.Says = fmt.Sprintf("the call %s: none of the %d instances of %s is healthy", become, len(u.hosts), of)
		end.Fix = "see why their checks fail"
	}
	return end
}

// calleeKey is what decides what becomes of a call at an instance.
type calleeKey struct {
	socket
	sidecar   bool
	service   string // of the sidecar
	tlsOnly   bool   // its listener takes no plaintext
	plainOnly bool
	rules     *resource.Resource
	filling   *resource.Resource // what its inbound listener is filled with, of HTTP
	tcp       bool
	resolves  bool
	guessed   bool // the sidecar is not connected here: one of the service stands for it
}

type calleeEnd struct {
	End
	steps []Step
}

// calleeOf finds the sidecar at a host.
func (w *walk) calleeOf(u *upstream, h host) (calleeKey, error) {
	s, err := socketOf(u, h)
	if err != nil {
		return calleeKey{}, err
	}
	key := calleeKey{socket: s, tcp: w.v.Protocol == "tcp", resolves: h.resolves}
	service, _ := serviceOf(u.name)
	var view *resource.View
	profile, ok := w.sidecarAt(h.address, service)
	switch {
	case ok:
		view = w.s.View(profile)
	case s.tls: // it may be connected to another replica
		profile, view = w.anySidecar(service)
		key.guessed = true
	default:
		return key, nil
	}
	inbound := view.Own.Get(resource.Listener, resource.ListenerInbound)
	if inbound == nil {
		return key, nil
	}
	key.sidecar, key.service = true, profile.Service
	var l listenerv3.Listener
	if err := proto.Unmarshal(inbound.Body, &l); err != nil {
		return key, fmt.Errorf("inbound listener of %s: %w", profile.Service, err)
	}
	secure := func(c *listenerv3.FilterChain) bool { return c.GetTransportSocket() != nil }
	key.plainOnly = !slices.ContainsFunc(l.GetFilterChains(), secure)
	key.tlsOnly = !slices.ContainsFunc(l.GetFilterChains(), func(c *listenerv3.FilterChain) bool { return !secure(c) })
	if key.tcp {
		key.rules = view.Own.Get(resource.Secret, resource.SecretCallers(profile.Service))
	} else {
		key.rules = view.Own.Get(resource.Route, "inbound")
		key.filling = view.Own.Get(resource.Extension, resource.ExtensionInbound)
	}
	return key, nil
}

// sidecarAt finds the sidecar that takes calls at an address: of several that say so,
// one of the service. One that binds every address of its machine is known by its port.
func (w *walk) sidecarAt(address, service string) (found resource.Profile, ok bool) {
	if w.at == nil {
		w.at = make(map[string][]resource.Profile)
		for p := range w.s.Input.Fleet.Profiles() {
			if p.Kind == resource.Sidecar && p.MeshPort != 0 {
				at := net.JoinHostPort(p.Address, strconv.Itoa(int(p.MeshPort)))
				w.at[at] = append(w.at[at], p)
			}
		}
	}
	_, port, _ := net.SplitHostPort(address)
	for _, at := range []string{address, net.JoinHostPort("", port)} {
		for _, p := range w.at[at] {
			if p.Service == service {
				return p, true
			}
		}
	}
	if at := w.at[address]; len(at) > 0 {
		return at[0], true
	}
	return found, false
}

// anySidecar is one of a service that is connected, else one that is not.
func (w *walk) anySidecar(service string) (resource.Profile, *resource.View) {
	for p := range w.s.Input.Fleet.Profiles() {
		if p.Service == service && p.Kind == resource.Sidecar && p.MeshPort != 0 && p.AppPort != 0 {
			return p, w.s.View(p)
		}
	}
	made := plan.Sidecar(service)
	return made, w.with(made).View(made)
}

// enter is what becomes of a call at a sidecar: the handshake, the rules, and what its
// routes do.
func (w *walk) enter(service string, at calleeKey, r request) (calleeEnd, error) {
	e := calleeEnd{}
	step := func(what, source, format string, args ...any) {
		e.steps = append(e.steps, Step{What: what, Says: fmt.Sprintf(format, args...), Source: source})
	}
	if at.resolves {
		step("dns", "", "the sidecar resolves the name of an instance: whether it has an address is not known here")
	}
	switch {
	case !at.sidecar && at.tls:
		step("tls", "", "mTLS, and no sidecar of %s is known that takes it", service)
		e.End = w.refused(fmt.Sprintf("no sidecar of %s takes calls", service), "start its sidecar, with an app_port and a mesh_port", "MC3013")
		return e, nil
	case !at.sidecar:
		step("tls", "", "plaintext, to an instance without a sidecar: nobody is asked whether the caller may")
		e.End = w.reached(service, r)
		return e, nil
	case at.tls && at.plainOnly, !at.tls && at.tlsOnly:
		step("tls", w.source("security.mtls"), "the caller speaks %s, which the sidecar of %s does not take", transport(at.tls), service)
		e.End = w.refused("the two sidecars do not speak the same", "wait: mTLS is coming or going, step by step", "MC3013")
		return e, nil
	case at.tls && at.identity != w.identity(at.service):
		step("tls", "", "the sidecar there shows %s, and %s is wanted", w.identity(at.service), at.identity)
		e.End = w.refused(fmt.Sprintf("the sidecar at the address is one of %s", at.service), fmt.Sprintf("run it as %s, or correct services.%s.consul_service", service, service), "MC3008")
		return e, nil
	}
	identity := ""
	if at.tls {
		identity = w.identity(w.v.Call.From)
		step("tls", w.source("security.mtls"), "mTLS, as %s, to %s", identity, at.identity)
	} else {
		step("tls", w.source("security.mtls"), "plaintext: the callee does not know who calls")
	}
	if at.guessed {
		step("sidecar", "", "the sidecar there is not connected here: what one of %s would do stands for it", service)
	}
	if at.tcp {
		return e, w.admitTCP(&e, service, at, identity)
	}
	return e, w.admitHTTP(&e, service, at, received(r.Request), identity)
}

func transport(tls bool) string {
	if tls {
		return "mTLS"
	}
	return "plaintext"
}

func (w *walk) identity(service string) string {
	return "spiffe://" + w.s.Input.Mesh.MTLS.TrustDomain + "/" + service
}

// refused ends a call that gets no connection.
func (w *walk) refused(because, fix, code string) End {
	if w.v.Protocol == "tcp" {
		return End{Outcome: fails, Code: code, Flag: "UF", Says: "the connection is closed: " + because, Fix: fix}
	}
	return End{Outcome: fails, Status: 503, Code: code, Flag: "UF", Says: "the call is answered 503: " + because, Fix: fix}
}

// reached ends a call at the application.
func (w *walk) reached(service string, r request) End {
	if w.v.Protocol == "tcp" {
		return End{Outcome: passes, Says: fmt.Sprintf("%s is connected to an application of %s", w.v.Call.From, service)}
	}
	return End{Outcome: passes, Path: r.Path, Says: fmt.Sprintf("an application of %s answers %s %s", service, r.Method, r.Path)}
}

// admitTCP is the handshake of a service of TCP, which takes the callers of a list.
func (w *walk) admitTCP(e *calleeEnd, service string, at calleeKey, identity string) error {
	if !at.tls {
		e.End = w.reached(service, request{})
		return nil
	}
	rules, err := rulesOf(at)
	if err != nil {
		return err
	}
	if rules.Decide(identity, nil).Answer == admission.Always {
		e.steps = append(e.steps, Step{What: "authorization", Says: w.v.Call.From + " is among the callers that the handshake takes"})
		e.End = w.reached(service, request{})
		return nil
	}
	e.steps = append(e.steps, Step{What: "authorization", Says: w.v.Call.From + " is not among the callers that the handshake takes", Details: w.policiesOf(service)})
	e.End = End{
		Outcome: fails, Code: "MC3007", Says: fmt.Sprintf("the connection is closed: no policy admits %s to %s", w.v.Call.From, service),
		Fix: fmt.Sprintf("add an ALLOW of %s without conditions on HTTP%s", w.v.Call.From, w.behind("security.authorization")),
	}
	return nil
}

func rulesOf(at calleeKey) (*admission.Rules, error) {
	switch {
	case at.rules == nil:
		return &admission.Rules{}, nil // which admit nobody
	case at.tcp:
		return admission.TCP(at.rules.Body)
	default:
		return admission.HTTP(at.rules.Body)
	}
}

// admitHTTP asks the rules of a sidecar, and then its routes.
func (w *walk) admitHTTP(e *calleeEnd, service string, at calleeKey, r request, identity string) error {
	rules, err := rulesOf(at)
	if err != nil {
		return err
	}
	from := w.v.Call.From
	d := rules.Decide(identity, &r.Request)
	line := ""
	if p := w.s.PolicyNamed(service, d.Rule); p != nil {
		line = w.source(p.Key)
	}
	denied := End{Outcome: fails, Status: 403, Code: "MC3005"}
	switch {
	case d.Answer == admission.Always:
		e.steps = append(e.steps, Step{What: "authorization", Says: "admitted by " + d.Rule, Source: line})
	case d.Deny:
		e.steps = append(e.steps, Step{What: "authorization", Says: "denied by " + d.Rule, Source: line})
		denied.Says = fmt.Sprintf("the call is answered 403: policy %s denies it", d.Rule)
		denied.Fix = "change that policy"
		if line != "" {
			denied.Fix += " (" + line + ")"
		}
		e.End = denied
		return nil
	default:
		step := Step{What: "authorization", Says: "no ALLOW matches"}
		for _, name := range rules.Admitting(identity) {
			at := ""
			if p := w.s.PolicyNamed(service, name); p != nil {
				at = " (" + w.source(p.Key) + ")"
			}
			step.Details = append(step.Details, fmt.Sprintf("policy %s%s is of this caller, and not of this method, path or header", name, at))
		}
		e.steps = append(e.steps, step)
		denied.Says = fmt.Sprintf("the call is answered 403: no policy admits %s %s of %s to %s", r.Method, r.Path, from, service)
		if identity == "" {
			denied.Says = fmt.Sprintf("the call is answered 403: it comes without a certificate, and no policy of %s admits that", service)
		}
		denied.Fix = fmt.Sprintf("add an ALLOW of %s%s", from, w.behind("security.authorization"))
		e.End = denied
		return nil
	}
	return w.toApplication(e, service, at, r, identity)
}

// toApplication is what the routes of a sidecar, and its limits, do with what its rules
// admit.
func (w *walk) toApplication(e *calleeEnd, service string, at calleeKey, r request, identity string) error {
	var config routev3.RouteConfiguration
	if err := proto.Unmarshal(at.rules.Body, &config); err != nil {
		return fmt.Errorf("inbound routes of %s: %w", service, err)
	}
	_, route, err := routeFor(&config, r)
	if err != nil {
		return err
	}
	if answer := route.GetDirectResponse(); answer != nil {
		e.steps = append(e.steps, Step{What: "path", Says: "the sidecar of " + service + " refuses the path"})
		e.End = End{
			Outcome: fails, Status: int(answer.GetStatus()), Code: "MC3011", Says: fmt.Sprintf("the call is answered %d: its path has an encoded slash or backslash", answer.GetStatus()),
			Fix: "send it without, or set services." + service + ".encoded_slashes: keep",
		}
		return nil
	}
	l, err := w.limitsAt(service, at, route, identity)
	if err != nil {
		return err
	}
	e.steps = append(e.steps, l.steps...)
	e.End = l.bound(w.reached(service, r))
	return nil
}

// policiesOf are the policies that are about calls to a service.
func (w *walk) policiesOf(service string) []string {
	var all []string
	for _, p := range w.s.PoliciesOn(service) {
		all = append(all, fmt.Sprintf("%s %s (%s)", p.Action, p.Name, w.source(p.Key)))
	}
	return all
}
