package policy

import (
	"slices"
	"strings"
	"time"
)

// RateLimit bounds the requests that the instances of a service take. The zero value
// takes all.
type RateLimit struct {
	Mode    LimitMode
	Per     LimitedPart
	All     Bucket        // of all callers together; zero: no bound
	Callers []CallerLimit // by name
	Status  uint32        // of an answer to what is too much; gRPC has a status of its own
}

// Bucket holds Burst requests, and gets Requests more in each Interval.
type Bucket struct {
	Requests, Burst uint32
	Interval        time.Duration
}

// CallerLimit is the bound of one caller, beside that of all.
type CallerLimit struct {
	Caller string // a service of the mesh; EachOther: whoever has none, each for itself
	Bucket
}

// EachOther stands for the callers that the file does not name.
const EachOther = "*"

// LimitMode says what becomes of requests that are too many.
type LimitMode string

// Shadow only counts them; Off takes a service out of a limit of all.
const (
	Enforce LimitMode = "enforce"
	Shadow  LimitMode = "shadow"
	Off     LimitMode = "off"
)

// LimitedPart is of what a limit is.
type LimitedPart string

// PerService divides a limit among the instances of a service, PerProxy is of each. With
// PerGlobal a server counts for all, beside what is of each.
const (
	PerProxy   LimitedPart = "proxy"
	PerService LimitedPart = "service"
	PerGlobal  LimitedPart = "global"
)

// On reports whether anything is bounded, or counted.
func (r RateLimit) On() bool { return r.Local() || r.Global() }

// Local reports whether a proxy counts by itself.
func (r RateLimit) Local() bool {
	return r.Mode != Off && (r.All.Requests > 0 || len(r.Callers) > 0)
}

// Global reports whether the server of the mesh is asked.
func (r RateLimit) Global() bool { return r.Mode != Off && r.Per == PerGlobal }

// rateLimit lays a section of limits over those of a service.
func (d *decoder) rateLimit(s *mapping, to *Service) {
	if !s.present() {
		return
	}
	r := &to.RateLimit
	if r.Mode == "" {
		rateLimitKeys.defaults(r)
	}
	rateLimitKeys.read(s, r)
	if s.got("requests") && !s.has("burst") {
		r.All.Burst = r.All.Requests // another's would be of another rate
	}
	d.callerLimits(s.section("callers"), r)
	to.came(SettingRateLimit, s.key)
	switch {
	case r.Mode == Off && !s.has("mode"):
		s.first("requests", "callers", "interval", "burst", "per", "status").fail(CodeNoEffect, "mode: enforce", "has no effect: mode is off, which the section above it says")
	case r.Mode != Off && !r.On():
		s.fail(CodeNoEffect, "requests: 1000", "has no effect: it says neither how many requests, nor of which callers")
	}
}

// callerLimits lays the limits of callers over those that are there.
func (d *decoder) callerLimits(s *mapping, to *RateLimit) {
	callers := slices.Clone(to.Callers)
	s.each(func(name string, v value) {
		if name != EachOther && !s.keyOf(name).checkServiceName(name) {
			return
		}
		c, m := CallerLimit{Caller: name, Bucket: Bucket{Interval: time.Second}}, v.mapping()
		if !callerLimitKeys.read(m, &c.Bucket) || !m.present() {
			return
		}
		if !m.has("burst") {
			c.Burst = c.Requests
		}
		callers = append(slices.DeleteFunc(callers, func(o CallerLimit) bool { return o.Caller == name }), c)
	})
	slices.SortFunc(callers, func(a, b CallerLimit) int { return strings.Compare(a.Caller, b.Caller) })
	to.Callers = callers
}

// checkLimits looks whether callers can be told apart, and whether somebody counts.
func (d *decoder) checkLimits(s *mapping, m *Mesh) {
	limits := s.section("policies").section("rate_limit")
	sections := []*mapping{limits.section("default")}
	limits.section("custom").each(func(name string, v value) {
		sections = append(sections, v.mapping())
		checkCounted(name, v.mapping(), m)
	})
	s.section("services").each(func(name string, v value) {
		sections = append(sections, v.mapping().section("rate_limit"))
		checkCounted(name, v.mapping().section("rate_limit"), m)
	})
	checkCounted("", sections[0], m)
	for _, limit := range sections {
		switch {
		case !limit.has("callers"):
		case !m.MTLS.Enabled:
			limit.first("callers").fail(CodeNoIdentity, "security.mtls.enabled: true", "needs mtls.enabled: a caller is known by its certificate")
		case m.MTLS.Mode == Permissive:
			limit.first("callers").fail(CodePermissive, "mode: strict once every caller has a sidecar", "callers in plaintext have no identity: of these limits none holds for them")
		}
	}
}
