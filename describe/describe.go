// Package describe says what is in force of one service, policy or proxy: the values,
// the line of the mesh file that each came from, and who acts on it. It reads a snapshot,
// so it is what the fleet is served, and who is admitted comes from the rules in it.
package describe

import (
	"cmp"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	"google.golang.org/protobuf/proto"

	"datapunk.dev/controlplane/admin/api"
	"datapunk.dev/controlplane/plan"
	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/spelling"
	"datapunk.dev/controlplane/translate"
	"datapunk.dev/controlplane/watch"
)

// Service describes a service of the mesh.
func Service(s *translate.Snapshot, name string) (*api.Description, error) {
	if _, ok := s.Settings(name); !ok {
		return nil, unknown("service", name, slices.Collect(s.Services()))
	}
	mesh := s.Input.Mesh
	settings, _ := s.Settings(name)
	d := &api.Description{Kind: "service", Name: name}
	if slices.Contains(mesh.Names(), name) {
		d.Source = mesh.Source("services." + name).String()
	}
	for _, e := range mesh.Effective(name) {
		d.Settings = append(d.Settings, api.Setting{Key: e.Key, Value: e.Value, From: e.From, Source: e.Source.String()})
	}
	for _, r := range settings.Routes {
		d.Routes = append(d.Routes, api.NamedSource{Name: r.Name, Source: mesh.Source(r.Key).String()})
	}
	d.Policies = policies(s, name)
	for i, dial := range s.Dialed(name, "") {
		d.Instances = append(d.Instances, instance(i, dial))
	}
	for p := range s.Input.Fleet.Profiles() {
		if p.Service != name {
			continue
		}
		admits, ok, err := plan.Admits(s, p)
		if err != nil {
			return nil, err
		}
		if !ok {
			continue
		}
		by := make(map[string][]string)
		for _, caller := range append(slices.Collect(s.Services()), plan.Anybody) {
			answer := admits(caller).String()
			by[answer] = append(by[answer], caller)
		}
		for _, answer := range slices.Sorted(maps.Keys(by)) {
			d.Admits = append(d.Admits, api.Admitted{Answer: answer, Callers: by[answer]})
		}
		break // the others have the same rules, but for policies of ports
	}
	return d, nil
}

func instance(i *watch.Instance, dial translate.Dial) api.InstanceInForce {
	one := api.InstanceInForce{ID: i.ID, LeftOut: dial.LeftOut}
	if dial.LeftOut == "" {
		host := i.Host
		if i.Address.IsValid() {
			host = i.Address.String()
		}
		one.Address, one.Health = net.JoinHostPort(host, strconv.Itoa(int(dial.Port))), i.Health.String()
	}
	return one
}

// policies are those that act on the calls to a service.
func policies(s *translate.Snapshot, service string) []api.PolicyInForce {
	var all []api.PolicyInForce
	for _, p := range s.PoliciesOn(service) {
		all = append(all, api.PolicyInForce{Name: p.Name, Action: string(p.Action), Shadow: p.Shadow, Source: s.Input.Mesh.Source(p.Key).String()})
	}
	return all
}

// Policy describes an authorization policy: on whose calls it acts, and whom it is about.
func Policy(s *translate.Snapshot, name string) (*api.Description, error) {
	mesh := s.Input.Mesh
	all := mesh.Authorization.Policies
	at := slices.IndexFunc(all, func(p policy.AuthorizationPolicy) bool { return p.Name == name })
	if at < 0 {
		var names []string
		for _, p := range all {
			names = append(names, p.Name)
		}
		return nil, unknown("policy", name, names)
	}
	p := &all[at]
	d := &api.Description{Kind: "policy", Name: name, Source: mesh.Source(p.Key).String()}
	add := func(key, value string) {
		if value != "" {
			d.Settings = append(d.Settings, api.Setting{Key: key, Value: value, From: p.Key + "." + key, Source: mesh.Source(p.Key + "." + key).String()})
		}
	}
	add("action", string(p.Action))
	if p.Shadow {
		add("mode", "shadow")
	}
	for _, c := range []struct {
		key    string
		values []string
	}{
		{"principals", p.Principals},
		{"not_principals", p.NotPrincipals},
		{"sources", p.Sources},
		{"not_sources", p.NotSources},
		{"destinations", p.Destinations},
		{"not_destinations", p.NotDestinations},
		{"paths", p.Paths},
		{"not_paths", p.NotPaths},
		{"methods", p.Methods},
		{"not_methods", p.NotMethods},
		{"headers", headers(p.Headers)},
		{"not_headers", headers(p.NotHeaders)},
		{"ports", ports(p.Ports)},
		{"not_ports", ports(p.NotPorts)},
	} {
		add(c.key, strings.Join(c.values, ", "))
	}
	domain := mesh.MTLS.TrustDomain
	callers := p.Callers(domain)
	for service := range s.Services() {
		if slices.Contains(s.PoliciesOn(service), p) {
			d.Services = append(d.Services, service)
		}
		if callers.Match("spiffe://" + domain + "/" + service) {
			d.Callers = append(d.Callers, service)
		}
	}
	return d, nil
}

func headers(all []policy.HeaderMatch) []string {
	var names []string
	for _, h := range all {
		names = append(names, h.Name)
	}
	return names
}

func ports(all []uint16) []string {
	var texts []string
	for _, p := range all {
		texts = append(texts, strconv.Itoa(int(p)))
	}
	return texts
}

// Proxy describes what the proxies of a profile have for themselves.
func Proxy(s *translate.Snapshot, name string, profile resource.Profile) (*api.Description, error) {
	view := s.View(profile)
	if view == nil {
		return nil, fmt.Errorf("nothing is served to proxy %s", name)
	}
	d := &api.Description{Kind: "proxy", Name: name, Missing: view.Missing, Policies: policies(s, profile.Service)}
	for _, f := range []struct{ key, value string }{
		{"service", profile.Service},
		{"kind", profile.Kind.String()},
		{"address", profile.Address},
		{"zone", profile.Zone},
		{"app_address", cmp.Or(profile.AppAddress, "127.0.0.1")},
		{"app_port", port(profile.AppPort)},
		{"mesh_port", port(profile.MeshPort)},
		{"outbound_port", port(profile.OutboundPort)},
		{"metrics_port", port(profile.MetricsPort)},
	} {
		if f.value != "" {
			d.Settings = append(d.Settings, api.Setting{Key: f.key, Value: f.value})
		}
	}
	if listeners := view.Own[resource.Listener]; listeners != nil {
		for r := range listeners.All() {
			var l listenerv3.Listener
			if err := proto.Unmarshal(r.Body, &l); err != nil {
				return nil, fmt.Errorf("listener %s: %w", r.Name, err)
			}
			at := l.GetAddress().GetSocketAddress()
			one := api.Listener{Name: r.Name, Address: net.JoinHostPort(at.GetAddress(), port(uint16(at.GetPortValue())))} //nolint:gosec // a port
			if len(r.Keys) > 0 {
				one.Source = s.Input.Mesh.Source(r.Keys[0]).String()
			}
			d.Listeners = append(d.Listeners, one)
		}
	}
	return d, nil
}

func port(p uint16) string {
	if p == 0 {
		return ""
	}
	return strconv.Itoa(int(p))
}

func unknown(kind, name string, known []string) error {
	if near := spelling.Nearest(name, slices.Values(known)); near != "" {
		return fmt.Errorf("no %s %s: did you mean %s?", kind, name, near)
	}
	return fmt.Errorf("no %s %s", kind, name)
}
