package policy

import (
	"slices"
	"strings"
	"time"
)

// builtIn are the settings of a service of which the file says nothing.
func builtIn() *Service {
	return &Service{
		Protocol:        HTTP,
		AllUpstreams:    true,
		CircuitBreakers: CircuitBreakers{MaxConnections: 1024, MaxPendingRequests: 1024, MaxRequests: 1024, MaxRetries: 1024},
		OutlierDetection: OutlierDetection{
			Consecutive5xx: 5, ConsecutiveGatewayFailure: 5,
			Interval: 10 * time.Second, BaseEjectionTime: 30 * time.Second, MaxEjectionTime: 5 * time.Minute,
			MaxEjectionPercent: 50,
		},
		LoadBalancing: LoadBalancing{Policy: "least_request", PanicThreshold: 50},
		// Only what certainly never reached the application is tried
		// again unasked.
		Retry: Retry{
			Attempts:     2,
			BaseInterval: 25 * time.Millisecond,
			Conditions:   []string{"connect-failure", "refused-stream"},
		},
		Timeout: Timeout{Connect: 5 * time.Second, Idle: time.Hour, StreamIdle: 5 * time.Minute},
		keys:    make(map[string][]string),
	}
}

// layers are the sections that settle one service, beside the defaults.
type layers struct {
	name   string
	custom value // circuit_breakers.custom.X
	own    value // services.X
}

// services reads the defaults of the mesh, and then each service that the file
// names over them.
func (d *decoder) services(s *section, m *Mesh) {
	base := builtIn()
	breakers := s.section("circuit_breakers")
	d.breakerLayer(breakers.section("default"), base)
	balancing := s.section("load_balancing")
	d.loadBalancing(balancing, base)
	d.healthChecks(balancing.section("health_checks"), base)
	balancing.later("locality")
	balancing.close()
	policies := s.section("policies")
	retry, timeout := policies.section("retry"), policies.section("timeout")
	d.retry(retry, base)
	d.timeout(timeout, base)
	d.checkTimes(base, timeout, retry)
	policies.later("rate_limit")
	policies.close()
	m.defaults = finished(base)

	for _, l := range d.named(breakers.section("custom"), s.section("services")) {
		m.services[l.name] = d.service(l, base)
	}
	breakers.close()
	d.checkNames(s, m)
	d.checkUpstreams(s, m)
}

// named are the services that the file names, with their sections.
func (d *decoder) named(custom, own *section) []*layers {
	byName := make(map[string]*layers)
	layer := func(s *section, name string) *layers {
		l := byName[name]
		if l == nil && s.keyOf(name).checkServiceName(name) {
			l = &layers{name: name, custom: value{d: d}, own: value{d: d}}
			byName[name] = l
		}
		return l
	}
	custom.each(func(name string, v value) {
		if l := layer(custom, name); l != nil {
			l.custom = v
		}
	})
	own.each(func(name string, v value) {
		if l := layer(own, name); l != nil {
			l.own = v
		}
	})
	all := make([]*layers, 0, len(byName))
	for _, name := range sortedKeys(byName) {
		all = append(all, byName[name])
	}
	return all
}

// service lays what the file says of one service over the defaults.
func (d *decoder) service(l *layers, base *Service) *Service {
	to := base.clone()
	to.Name, to.ConsulService = l.name, l.name
	d.breakerLayer(l.custom.section(), to)

	s := l.own.section()
	if s.filled("consul_service", &to.ConsulService) {
		to.came("consul_service", join(s.key, "consul_service"))
	}
	protocol := string(to.Protocol)
	if s.word("protocol", &protocol, string(HTTP), string(HTTP2), string(GRPC), string(TCP)) {
		to.Protocol = Protocol(protocol)
		to.came("protocol", join(s.key, "protocol"))
	}
	d.upstreams(s, to)
	d.circuitBreakers(s.section("circuit_breakers"), to)
	d.outlierDetection(s.section("outlier_detection"), to)
	balancing := s.section("load_balancing")
	d.loadBalancing(balancing, to)
	balancing.refuse("health_checks", "the health_checks of a service stand beside its load_balancing, not inside")
	balancing.later("locality")
	balancing.close()
	d.healthChecks(s.section("health_checks"), to)
	retry, timeout := s.section("retry"), s.section("timeout")
	d.retry(retry, to)
	to.Retry.TimeoutOfService = retry.has("timeout")
	d.timeout(timeout, to)
	if retry.present() || timeout.present() {
		d.checkTimes(to, timeout, retry)
	}
	s.later("subsets", "default_subset", "rate_limit")
	s.close()
	return finished(to)
}

// clone returns a copy that may be written to.
func (s *Service) clone() *Service {
	c := *s
	c.keys = make(map[string][]string, len(s.keys))
	for setting, keys := range s.keys {
		c.keys[setting] = keys
	}
	if s.HealthChecks != nil {
		h := *s.HealthChecks
		c.HealthChecks = &h
	}
	return &c
}

// came records that a setting is written at the key.
func (s *Service) came(setting, key string) {
	key = strings.TrimPrefix(key, "mesh.")
	s.keys[setting] = slices.Insert(slices.Clone(s.keys[setting]), 0, key)
}

// finished settles what only the outcome of all layers can.
func finished(s *Service) *Service {
	s = s.clone()
	if s.Retry.MaxInterval == 0 {
		s.Retry.MaxInterval = defaultMaxInterval * s.Retry.BaseInterval
	}
	if !hashes(s.LoadBalancing.Policy) {
		s.LoadBalancing.HashPolicy = nil
	}
	if h := s.HealthChecks; h != nil {
		if h.Protocol != "http" {
			h.Path = ""
		}
		// An inherited check in words that a TCP service does not know
		// would never pass.
		if s.Protocol == TCP {
			h.Protocol, h.Path = "tcp", ""
		}
	}
	return s
}

// upstreams reads the services that one calls: names, or names with a port.
func (d *decoder) upstreams(s *section, to *Service) {
	v, ok := s.get("upstreams")
	if !ok {
		return
	}
	to.AllUpstreams = false
	to.Upstreams = nil
	to.came("upstreams", v.key)
	items, ok := v.list()
	if !ok {
		return
	}
	services, ports := make(map[string]bool), make(map[uint16]string)
	for _, item := range items {
		u, ok := d.upstream(item)
		if !ok {
			continue
		}
		if services[u.Service] {
			item.fail(CodeUpstream, "", "%s is an upstream already", u.Service)
			continue
		}
		services[u.Service] = true
		if other, taken := ports[u.LocalBindPort]; taken && u.LocalBindPort != 0 {
			item.fail(CodeUpstream, "a port of its own for each", "local_bind_port %d is that of %s already", u.LocalBindPort, other)
			continue
		}
		ports[u.LocalBindPort] = u.Service
		to.Upstreams = append(to.Upstreams, u)
	}
}

func (d *decoder) upstream(v value) (Upstream, bool) {
	var u Upstream
	if v.kind != object {
		name, ok := v.serviceName()
		return Upstream{Service: name}, ok
	}
	s := v.section()
	ok := read(s, "service", &u.Service, value.serviceName)
	if !s.has("service") {
		s.missing("service", "")
	}
	if s.has("local_bind_port") {
		ok = s.port("local_bind_port", &u.LocalBindPort) && ok
	}
	s.close()
	return u, ok
}

// checkNames refuses two services that are one in the catalog, or that differ
// in case alone, since hosts are compared in lower case.
func (d *decoder) checkNames(s *section, m *Mesh) {
	claims, lower := make(map[string]string), make(map[string]string)
	for _, name := range m.Names() {
		catalog := m.services[name].ConsulService
		v := d.placeOf(s, name)
		if other, ok := claims[catalog]; ok {
			v.fail(CodeClaim, "one service of the mesh for each of Consul's", "is %q in Consul, and so is %s", catalog, other)
		}
		claims[catalog] = name
		if other, ok := lower[strings.ToLower(name)]; ok {
			v.fail(CodeServiceName, "", "differs from %s only in case, and hosts are compared in lower case", other)
		}
		lower[strings.ToLower(name)] = name
	}
}

// placeOf is where the file names a service: its consul_service if it has one.
func (d *decoder) placeOf(s *section, name string) value {
	if own := s.section("services"); own.has(name) {
		v, _ := own.peek(name)
		if catalog, ok := v.section().peek("consul_service"); ok {
			return catalog
		}
		return own.keyOf(name)
	}
	return s.section("circuit_breakers").section("custom").keyOf(name)
}

// outboundPort is the port of a sidecar's outbound listener where its
// bootstrap says no other.
const outboundPort = 15001

// checkUpstreams warns of ports at which nothing will ever listen.
func (d *decoder) checkUpstreams(s *section, m *Mesh) {
	own := s.section("services")
	for _, name := range m.Names() {
		for _, u := range m.services[name].Upstreams {
			v, _ := own.peek(name)
			v, _ = v.section().peek("upstreams")
			switch tcp := m.Service(u.Service).Protocol == TCP; {
			case tcp && u.LocalBindPort == 0:
				v.fail(CodeNoEffect, "{service: "+u.Service+", local_bind_port: 5432}", "%s speaks TCP, and without a local_bind_port nobody can call it", u.Service)
			case !tcp && u.LocalBindPort != 0:
				v.fail(CodeNoEffect, "services."+u.Service+".protocol: tcp", "local_bind_port %d has no effect: %s does not speak TCP", u.LocalBindPort, u.Service)
			case u.LocalBindPort == outboundPort:
				v.fail(CodePort, "", "local_bind_port %d is where a sidecar takes HTTP calls, unless its bootstrap says another", outboundPort)
			}
		}
	}
}
