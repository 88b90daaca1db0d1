package policy

import (
	"maps"
	"slices"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/yamlfile"
)

// builtIn are the settings of a service of which the file says nothing.
func builtIn() *Service {
	s := &Service{AllUpstreams: true}
	serviceKeys.defaults(s)
	limitKeys.defaults(&s.CircuitBreakers)
	outlierKeys.defaults(&s.OutlierDetection)
	balancingKeys.defaults(&s.LoadBalancing)
	localityKeys.defaults(&s.LoadBalancing.Locality)
	retryKeys.defaults(&s.Retry)
	backoffKeys.defaults(&s.Retry)
	timeoutKeys.defaults(&s.Timeout)
	return s
}

// layers are the sections that settle one service, beside the defaults.
type layers struct {
	name   string
	custom value // circuit_breakers.custom.X
	limit  value // policies.rate_limit.custom.X
	own    value // services.X
}

// services reads the defaults of the mesh, and then each service that the file
// names over them.
func (d *decoder) services(s *mapping, m *Mesh) {
	base := builtIn()
	breakers := s.section("circuit_breakers")
	circuitBreakersKeys.read(breakers, m)
	d.breakerLayer(breakers.section("default"), base)
	balancing := s.section("load_balancing")
	d.loadBalancing(balancing, &meshBalancingKeys, base)
	d.healthChecks(balancing.section("health_checks"), base)
	policies := s.section("policies")
	policiesKeys.read(policies, m)
	retry, timeout := policies.section("retry"), policies.section("timeout")
	d.retry(retry, base)
	d.timeout(timeout, base)
	d.checkTimes(base, timeout, retry)
	limits := policies.section("rate_limit")
	rateLimitsKeys.read(limits, m)
	d.limitServer(limits.section("server"), m)
	d.rateLimit(limits.section("default"), base)
	d.admissionControl(policies.section("admission_control"), base)
	m.defaults = finished(base)

	for _, l := range d.named(breakers.section("custom"), limits.section("custom"), s.section("services"), d.routed(s)) {
		m.services[l.name] = d.service(l, base)
		checkReported(l.own.mapping(), &m.Discovery)
	}
	d.checkLimitServer(limits.section("server"), m)
	d.checkNames(s, m)
	d.checkUpstreams(s, m)
	d.checkDatacenters(s, m)
}

// named are the services that the file names, with their sections.
func (d *decoder) named(custom, limits, own *mapping, routed []value) []*layers {
	byName := make(map[string]*layers)
	layer := func(s *mapping, name string) *layers {
		l := byName[name]
		if l == nil && s.keyOf(name).checkServiceName(name) {
			l = d.layersOf(name)
			byName[name] = l
		}
		return l
	}
	custom.each(func(name string, v value) {
		if l := layer(custom, name); l != nil {
			l.custom = v
		}
	})
	limits.each(func(name string, v value) {
		if l := layer(limits, name); l != nil {
			l.limit = v
		}
	})
	own.each(func(name string, v value) {
		if l := layer(own, name); l != nil {
			l.own = v
		}
	})
	for _, v := range routed {
		if name, ok := v.plainName(); ok && byName[name] == nil {
			byName[name] = d.layersOf(name)
		}
	}
	all := make([]*layers, 0, len(byName))
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		all = append(all, byName[name])
	}
	return all
}

// layersOf are the layers of a service of which nothing is said yet.
func (d *decoder) layersOf(name string) *layers {
	return &layers{name: name, custom: value{d: d}, limit: value{d: d}, own: value{d: d}}
}

// service lays what the file says of one service over the defaults.
func (d *decoder) service(l *layers, base *Service) *Service {
	to := base.clone()
	to.Name, to.ConsulService = l.name, l.name
	d.breakerLayer(l.custom.mapping(), to)

	s := l.own.mapping()
	serviceKeys.read(s, to)
	for _, setting := range []Setting{SettingConsulService, SettingProtocol, SettingEncodedSlashes, SettingUpstreams} {
		if s.got(setting.String()) {
			to.came(setting, join(s.key, setting.String()))
		}
	}
	if s.got("upstreams") {
		to.AllUpstreams = false
		checkDistinct(s.first("upstreams"), to.Upstreams)
	}
	d.subsets(s, to)
	d.limits(s.section("circuit_breakers"), &limitKeys, to)
	d.outlierDetection(s.section("outlier_detection"), to)
	d.loadBalancing(s.section("load_balancing"), &serviceBalancingKeys, to)
	d.healthChecks(s.section("health_checks"), to)
	d.appCheck(s.section("health_check"), to)
	retry, timeout := s.section("retry"), s.section("timeout")
	d.retry(retry, to)
	to.Retry.TimeoutOfService = retry.has("timeout")
	d.timeout(timeout, to)
	d.rateLimit(l.limit.mapping(), to)
	d.rateLimit(s.section("rate_limit"), to)
	d.admissionControl(s.section("admission_control"), to)
	if to.Protocol == TCP {
		for _, guard := range []*mapping{l.limit.mapping(), s.section("rate_limit"), s.section("admission_control")} {
			if guard.present() {
				guard.fail(CodeNoEffect, "", "has no effect: %s speaks TCP, and takes no requests", to.Name)
			}
		}
		to.RateLimit, to.AdmissionControl = RateLimit{}, AdmissionControl{}
	}
	if timeout.has("max_connection_duration") && to.Protocol != TCP {
		timeout.keyOf("max_connection_duration").fail(CodeNoEffect, "protocol: tcp", "has no effect: %s does not speak TCP", to.Name)
	}
	if s.has("encoded_slashes") && to.Protocol == TCP {
		s.keyOf("encoded_slashes").fail(CodeNoEffect, "", "has no effect: %s speaks TCP, which has no paths", to.Name)
	}
	if retry.present() || timeout.present() {
		d.checkTimes(to, timeout, retry)
	}
	return finished(to)
}

// clone returns a copy that may be written to.
func (s *Service) clone() *Service {
	c := *s
	if s.HealthChecks != nil {
		h := *s.HealthChecks
		c.HealthChecks = &h
	}
	return &c
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

// upstream is a service that one calls: a name, or a name with a port.
func upstream() parser[Upstream] {
	whole, name := object(&upstreamKeys, nil), serviceName()
	whole.orText = &name.shape
	return parser[Upstream]{whole.shape, func(v value) (Upstream, bool) {
		if v.Kind == yamlfile.Map {
			return whole.parse(v)
		}
		service, ok := name.parse(v)
		return Upstream{Service: service}, ok
	}}
}

// checkDistinct refuses an upstream, or a port, that stands twice.
func checkDistinct(v value, upstreams []Upstream) {
	items, _ := v.list()
	services, ports := make(map[string]bool), make(map[uint16]string)
	for i, u := range upstreams {
		if services[u.Service] {
			items[i].fail(CodeUpstream, "", "%s is an upstream already", u.Service)
			continue
		}
		services[u.Service] = true
		if other, taken := ports[u.LocalBindPort]; taken && u.LocalBindPort != 0 {
			items[i].fail(CodeUpstream, "a port of its own for each", "local_bind_port %d is that of %s already", u.LocalBindPort, other)
			continue
		}
		ports[u.LocalBindPort] = u.Service
	}
}

// checkNames refuses two services that are one in the catalog, or that differ
// in case alone, since hosts are compared in lower case.
func (d *decoder) checkNames(s *mapping, m *Mesh) {
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
func (d *decoder) placeOf(s *mapping, name string) value {
	if own := s.section("services"); own.has(name) {
		v, _ := own.peek(name)
		if catalog, ok := v.mapping().peek("consul_service"); ok {
			return catalog
		}
		return own.keyOf(name)
	}
	if custom := s.section("circuit_breakers").section("custom"); custom.has(name) {
		return custom.keyOf(name)
	}
	if limits := s.section("policies").section("rate_limit").section("custom"); limits.has(name) {
		return limits.keyOf(name)
	}
	for _, v := range d.routed(s) {
		if named, ok := v.plainName(); ok && named == name {
			return v
		}
	}
	return s.value
}

// plainName is the name of a service that a value is, if it is one. What is wrong
// with it is reported by who reads it.
func (v value) plainName() (string, bool) {
	if v.Kind != yamlfile.Scalar || v.Tag != "!!str" {
		return "", false
	}
	e, err := expand(v.Text, v.d.lookup)
	return e.text, err == nil && spiffeid.ValidatePathSegment(e.text) == nil && resource.Reserved(e.text) == ""
}

// outboundPort is the port of a sidecar's outbound listener where its
// bootstrap says no other.
const outboundPort = 15001

// checkUpstreams warns of ports at which nothing will ever listen.
func (d *decoder) checkUpstreams(s *mapping, m *Mesh) {
	own := s.section("services")
	for _, name := range m.Names() {
		for _, u := range m.services[name].Upstreams {
			v, _ := own.peek(name)
			v, _ = v.mapping().peek("upstreams")
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
