package watch

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strings"
)

// Selection is which part of a catalog is in the mesh. The zero value is all of it.
type Selection struct {
	// Tags are those that an instance has, all of them, as in Consul's own queries.
	Tags []string
	// Exclude are names of services, each of which may have `*` for any part of it. As
	// in Consul, names that differ in case alone are one.
	Exclude []string
	// OnlyPassing leaves out who is not passing: with a warning, critical, in
	// maintenance.
	OnlyPassing bool
}

// Clone returns a copy that shares nothing.
func (s Selection) Clone() Selection {
	s.Tags, s.Exclude = slices.Clone(s.Tags), slices.Clone(s.Exclude)
	return s
}

// Equal reports whether both select the same of any catalog, as they are written.
func (s Selection) Equal(o Selection) bool {
	return slices.Equal(s.Tags, o.Tags) && slices.Equal(s.Exclude, o.Exclude) && s.OnlyPassing == o.OnlyPassing
}

// Excludes returns the first pattern that leaves out a service by its name; "" if none
// does.
func (s Selection) Excludes(service string) string {
	for _, pattern := range s.Exclude {
		if ok, err := path.Match(strings.ToLower(pattern), strings.ToLower(service)); ok && err == nil {
			return pattern
		}
	}
	return ""
}

// Lacks says what an instance lacks to be selected, "" if nothing.
func (s Selection) Lacks(i *Instance) string {
	for _, tag := range s.Tags {
		if !slices.Contains(i.Tags, tag) {
			return "has the tag " + tag
		}
	}
	if s.OnlyPassing && i.Health != Passing {
		return "is passing"
	}
	return ""
}

// MoreThan reports whether some instance that o leaves out may be selected now.
func (s Selection) MoreThan(o Selection) bool {
	fewerTags := slices.ContainsFunc(o.Tags, func(tag string) bool { return !slices.Contains(s.Tags, tag) })
	return fewerTags || o.OnlyPassing && !s.OnlyPassing
}

// Instances returns the service with the instances that are selected; the service
// itself if that is all of them.
func (s Selection) Instances(of *Service) *Service {
	lacking := ""
	rest := slices.DeleteFunc(slices.Clone(of.Instances), func(i *Instance) bool {
		lack := s.Lacks(i)
		lacking = cmp.Or(lacking, lack)
		return lack != ""
	})
	if len(rest) == len(of.Instances) {
		return of
	}
	selected := *of
	selected.Instances = rest
	if len(rest) == 0 {
		selected.Unselected = fmt.Sprintf("none of its %d instances %s", len(of.Instances), lacking)
	}
	return &selected
}

// Select returns the part of the catalog that is selected; the catalog itself if that
// is all of it.
func (c *Catalog) Select(s Selection) *Catalog {
	var put []*Service
	var remove []string
	for service := range c.Services() {
		if s.Excludes(service.Name) != "" {
			remove = append(remove, service.Name)
		} else {
			put = append(put, s.Instances(service))
		}
	}
	return c.Update(put, remove)
}
