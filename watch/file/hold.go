package file

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"time"

	"datapunk.dev/controlplane/watch"
)

// Half a file may well be a catalog, one without what stands at its end, and a
// catalog without instances takes them out of every Envoy. So a file that
// removes much is believed when it has rested; until then what it adds and
// changes is in force, and what it lacks stays. Of a file that is a beginning
// of the last one nothing is taken for as long as it stays so, since its last
// value may be cut too. Only where it removes little and was put in the place
// of the last one is it whole: a program that renames has written all.

const (
	// rest is how long a file that removes much must be left alone.
	rest = 5 * time.Second
	// look is how often what is held is looked at.
	look = 250 * time.Millisecond
)

// hold is why a file that can be read is not in force as it stands.
type hold struct {
	services []*watch.Service
	why      string
	affected int // services
	since    time.Time
	until    time.Time // zero: for as long as it stays so
}

// status is the hold as operators see it.
func (h *hold) status() (held []string, services int) {
	if h == nil {
		return nil, 0
	}
	return []string{h.String()}, h.affected
}

// removals is what the file lacks of a catalog that is in force, as people decide on it.
func (h *hold) removals(catalog *watch.Catalog) []watch.Removal {
	if h == nil {
		return nil
	}
	has := make(map[string]map[watch.Place]bool, len(h.services))
	for _, s := range h.services {
		there := make(map[watch.Place]bool, len(s.Instances))
		for _, i := range s.Instances {
			there[i.Dialed()] = true
		}
		has[s.Name] = there
	}
	var all []watch.Removal
	for s := range catalog.Services() {
		r := watch.Removal{Service: s.Name, Had: len(s.Instances), Why: h.why, Since: h.since, Until: h.until}
		for _, i := range s.Instances {
			if !has[s.Name][i.Dialed()] {
				r.Instances = append(r.Instances, watch.Removed{ID: i.ID, Address: i.Dialed().String()})
			}
		}
		if len(r.Instances) > 0 {
			all = append(all, r)
		}
	}
	return all
}

// String says why, and what ends it.
func (h *hold) String() string {
	if h.until.IsZero() {
		return h.why + ": not taken as long as it stays so, or until `controlplane accept` names it"
	}
	return fmt.Sprintf("%s: taken when the file has rested for %v, at %s, or at once by `controlplane accept`", h.why, rest, h.until.Format(time.TimeOnly))
}

// judge takes the services of the file that was read, or holds them.
func (s *Source) judge(services []*watch.Service) {
	whole := s.catalog.Update(services, gone(s.catalog, services))
	left, cut := bytes.CutPrefix(s.good, s.data)
	cut = cut && len(left) > 0
	removed, affected := removes(s.catalog, services)
	switch {
	case s.good == nil: // the first one
	case whole == s.catalog:
		if cut { // it lacks what means nothing, and stays to be compared with the last
			s.loaded(whole, nil)
			return
		}
	case s.meant(s.data):
		s.log.Warn("catalog taken at once: it is said to be meant", "removes", removed, "beginning", cut)
	case cut && (removed != "" || os.SameFile(s.info, s.goodInfo)):
		s.hold(s.catalog, &hold{services: services, affected: max(affected, 1), why: s.path + " is a beginning of the last catalog, and may be half written"})
		return
	case removed != "":
		s.hold(s.catalog.Update(keep(s.catalog, services), nil), &hold{
			services: services, affected: affected, until: time.Now().Add(rest), why: s.path + " removes much: " + removed,
		})
		return
	}
	s.take(services)
}

// hold puts a catalog in force that is not all that the file says.
func (s *Source) hold(next *watch.Catalog, h *hold) {
	h.since = time.Now()
	s.log.Warn("catalog waits: " + h.String())
	s.loaded(next, h)
}

// reconsider takes what is held when its time has come.
func (s *Source) reconsider() {
	h := s.held
	meant := s.meant(s.data)
	if !meant && (h.until.IsZero() || time.Now().Before(h.until)) {
		return
	}
	// Of a change a moment ago nobody may have been told yet.
	if data, _, err := read(s.path); err != nil || !bytes.Equal(data, s.data) {
		s.load()
		return
	}
	s.log.Warn("catalog that waited is taken: "+h.why, "meant", meant)
	s.take(h.services)
}

// gone are the services of the catalog that the file does not have.
func gone(catalog *watch.Catalog, services []*watch.Service) []string {
	named := make(map[string]bool, len(services))
	for _, service := range services {
		named[service.Name] = true
	}
	var names []string
	for old := range catalog.Services() {
		if !named[old.Name] {
			names = append(names, old.Name)
		}
	}
	return names
}

// removes says, for people, of what the file has much less than the catalog,
// and how many services lose an instance. It is empty if it is nothing much.
func removes(catalog *watch.Catalog, services []*watch.Service) (what string, affected int) {
	after := make(map[string]int, len(services))
	var servicesAfter, instancesAfter int
	for _, s := range services {
		after[s.Name] = len(s.Instances)
		instancesAfter += len(s.Instances)
		if len(s.Instances) > 0 {
			servicesAfter++
		}
	}
	var servicesBefore, instancesBefore int
	emptied := ""
	for s := range catalog.Services() {
		n := len(s.Instances)
		if n == 0 {
			continue
		}
		servicesBefore++
		instancesBefore += n
		if after[s.Name] < n {
			affected++
		}
		if n >= 2 && after[s.Name] == 0 {
			emptied = fmt.Sprintf("no instance of %s is left of %d", s.Name, n)
		}
	}
	switch {
	case much(instancesBefore, instancesAfter):
		return fmt.Sprintf("%d instances are left of %d", instancesAfter, instancesBefore), affected
	case much(servicesBefore, servicesAfter):
		return fmt.Sprintf("%d services are left of %d", servicesAfter, servicesBefore), affected
	default:
		return emptied, affected
	}
}

// much reports whether so few are left of so many that it may be a mistake:
// none, or two or more are gone and they are over 30 % of all.
func much(before, after int) bool {
	gone := before - after
	return gone > 0 && after == 0 || gone >= 2 && 10*gone > 3*before
}

// keep returns the services of the file with the instances added that only the
// catalog has.
func keep(catalog *watch.Catalog, services []*watch.Service) []*watch.Service {
	both := make([]*watch.Service, 0, len(services))
	for _, s := range services {
		known := catalog.Service(s.Name)
		if known == nil {
			both = append(both, s)
			continue
		}
		ids := make(map[string]bool, len(s.Instances))
		for _, i := range s.Instances {
			ids[i.ID] = true
		}
		merged := *s
		instances := slices.Clone(s.Instances)
		for _, i := range known.Instances {
			if !ids[i.ID] {
				instances = append(instances, i)
			}
		}
		merged.Excluded = slices.Clone(s.Excluded)
		merged.SetInstances(instances)
		both = append(both, &merged)
	}
	return both
}
