package policy

import (
	"slices"
	"strings"

	"datapunk.dev/controlplane/spelling"
)

// Subset is a part of a service's instances: those that meet all of it.
type Subset struct {
	Name    string
	Tag     string            // empty: any
	Version string            // empty: any
	Meta    map[string]string // empty: any
	Filter  string            // as CompileFilter reads it; empty: any
	// OnlyPassing leaves out who has a warning; and who is critical altogether.
	OnlyPassing bool
}

// OnEmpty says what becomes of the requests to a subset in which nobody can take
// them.
type OnEmpty string

// Redistribute sends them to the default subset, and then to all instances.
const (
	Redistribute OnEmpty = "redistribute"
	Fail         OnEmpty = "fail"
)

// Subset returns the subset with the name, or nil.
func (s *Service) Subset(name string) *Subset {
	for i := range s.Subsets {
		if s.Subsets[i].Name == name {
			return &s.Subsets[i]
		}
	}
	return nil
}

// subsetNames are those that the service declares, sorted.
func (s *Service) subsetNames() []string {
	names := make([]string, len(s.Subsets))
	for i := range s.Subsets {
		names[i] = s.Subsets[i].Name
	}
	return names
}

// subsets reads the subsets of a service.
func (d *decoder) subsets(s *mapping, to *Service) {
	all := s.section("subsets")
	all.each(func(name string, v value) {
		if !all.keyOf(name).checkSubsetName(name) {
			return
		}
		subset, m := Subset{Name: name}, v.mapping()
		subsetKeys.read(m, &subset)
		if m.has("version") && subset.Meta["version"] != "" {
			m.first("version").fail(CodeConflict, "one of both", "version is meta version, which is %q", subset.Meta["version"])
		}
		if !m.writes("tag", "version", "meta", "filter") {
			subset.Tag = name
		}
		m.checkNotEmpty("meta")
		to.Subsets = append(to.Subsets, subset)
	})
	slices.SortFunc(to.Subsets, func(a, b Subset) int { return strings.Compare(a.Name, b.Name) })
	if all.present() {
		to.came(SettingSubsets, all.key)
	}
	for _, name := range []string{"default_subset", "on_empty_subset"} {
		if s.has(name) {
			to.came(SettingSubsets, join(s.key, name))
		}
	}
	switch {
	case to.DefaultSubset != "" && to.Subset(to.DefaultSubset) == nil:
		s.first("default_subset").fail(CodeSubset, spelling.DidYouMean(to.DefaultSubset, to.subsetNames()), "%s has no subset %q", to.Name, to.DefaultSubset)
	case len(to.Subsets) == 0 && s.has("on_empty_subset"):
		s.first("on_empty_subset").fail(CodeNoEffect, "", "has no effect: %s has no subsets", to.Name)
	case to.Protocol == TCP && all.present():
		s.keyOf("subsets").fail(CodeNoEffect, "", "has no effect: %s speaks TCP, and nothing leads to its subsets", to.Name)
		to.Subsets, to.DefaultSubset = nil, ""
	}
}

// checkSubsetName takes what may stand behind a service's name in that of a
// cluster: without a dot, at which statistics are cut.
func (v value) checkSubsetName(name string) bool {
	if name == "" || len(name) > maxSubsetName || !onlyOf(name, "-_") {
		v.fail(CodeSubset, "letters, digits, dashes and underscores, at most 63", "%q is no name of a subset", name)
		return false
	}
	return true
}

const maxSubsetName = 63
