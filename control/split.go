package control

import (
	"maps"
	"strings"

	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/translate"
)

// split is what xds serves while some proxies have an edit and the others do not: to
// xds it is one snapshot, in which those proxies are in scopes of their own. Both of
// its snapshots are made of the same catalog. It is immutable.
type split struct {
	all   *translate.Snapshot // without the edit
	tried *translate.Snapshot // with it; nil: nobody has it any more
	has   map[resource.Profile]bool
	scope string // what the keys of scopes begin with in which the edit is

	scopes []*resource.Scope
	views  []*resource.View
}

// whole is what is served where no edit is tried.
func whole(s *translate.Snapshot) *split {
	return &split{all: s, scopes: s.ChangedScopes, views: s.ChangedViews}
}

// Scope implements [xds.Snapshot].
func (s *split) Scope(key string) *resource.Scope {
	of, tried := strings.CutPrefix(key, s.scope)
	if s.tried == nil || !tried {
		return s.all.Scope(key)
	}
	scope := s.tried.Scope(of)
	if scope == nil {
		return nil
	}
	own := *scope
	own.Key = key
	return &own
}

// View implements [xds.Snapshot].
func (s *split) View(p resource.Profile) *resource.View {
	if s.tried == nil || !s.has[p] {
		return s.all.View(p)
	}
	v := s.tried.View(p)
	if v != nil {
		v.Scope = s.scope + v.Scope
	}
	return v
}

// Changed implements [xds.Snapshot].
func (s *split) Changed() ([]*resource.Scope, []*resource.View) { return s.scopes, s.views }

// after returns what is served once all and tried are what they are, and those of has
// have the edit: what changes beside last, which is served now.
func (s *split) after(last *split) *split {
	next := *s
	next.scopes, next.views = nil, nil
	if s.all != last.all {
		next.scopes = append(next.scopes, s.all.ChangedScopes...)
		for _, v := range s.all.ChangedViews {
			if !s.has[v.Profile] {
				next.views = append(next.views, v)
			}
		}
	}
	sameTrial := s.tried != nil && last.tried != nil && s.scope == last.scope
	if sameTrial && s.tried != last.tried {
		for _, scope := range s.tried.ChangedScopes {
			if own := next.Scope(s.scope + scope.Key); own != nil {
				next.scopes = append(next.scopes, own)
			}
		}
		for _, v := range s.tried.ChangedViews {
			if s.has[v.Profile] {
				next.views = append(next.views, next.View(v.Profile))
			}
		}
	}
	for p := range moved(last, s, sameTrial) {
		if v := next.View(p); v != nil {
			next.views = append(next.views, v)
		}
	}
	return &next
}

// moved are the profiles that come to another snapshot.
func moved(from, to *split, sameTrial bool) map[resource.Profile]bool {
	if !sameTrial {
		all := maps.Clone(from.has)
		if all == nil {
			all = make(map[resource.Profile]bool, len(to.has))
		}
		maps.Copy(all, to.has)
		return all
	}
	some := make(map[resource.Profile]bool)
	for p := range from.has {
		if !to.has[p] {
			some[p] = true
		}
	}
	for p := range to.has {
		if !from.has[p] {
			some[p] = true
		}
	}
	return some
}

// differs reports whether a resource of a proxy that has the edit is another one by it.
func (s *split) differs(p resource.Profile, kind, name string) bool {
	if s == nil || s.tried == nil || !s.has[p] || name == "" {
		return false
	}
	return versionIn(s.tried, p, kind, name) != versionIn(s.all, p, kind, name)
}

// versionOf is the version that the edit gives a resource of a proxy; empty: there is none.
func (s *split) versionOf(p resource.Profile, kind, name string) string {
	return versionIn(s.tried, p, kind, name)
}

func versionIn(s *translate.Snapshot, p resource.Profile, kind, name string) string {
	t, ok := resource.TypeNamed(kind)
	v := s.View(p)
	if !ok || v == nil {
		return ""
	}
	if r := v.Own.Get(t, name); r != nil {
		return r.Version
	}
	if scope := s.Scope(v.Scope); scope != nil {
		if r := scope.Sets.Get(t, name); r != nil {
			return r.Version
		}
	}
	return ""
}
