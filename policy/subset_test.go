package policy_test

import (
	"reflect"
	"testing"

	"datapunk.dev/controlplane/policy"
)

// Subsets stand in the order of their names. One that says nothing is of the
// instances with its name as a tag.
func TestSubsets(t *testing.T) {
	s := load(t, `
mesh:
  name: m
  services:
    lake:
      subsets:
        stable: {version: "1"}
        canary: {}
        beta: {tag: canary, meta: {ring: "2"}}
      default_subset: stable
      on_empty_subset: fail
    web: {subsets: {blue:}}
`).Service("lake")
	want := []policy.Subset{
		{Name: "beta", Tag: "canary", Meta: map[string]string{"ring": "2"}},
		{Name: "canary", Tag: "canary"},
		{Name: "stable", Version: "1"},
	}
	if !reflect.DeepEqual(s.Subsets, want) || s.DefaultSubset != "stable" || s.OnEmptySubset != policy.Fail {
		t.Errorf("%+v, %q, %q", s.Subsets, s.DefaultSubset, s.OnEmptySubset)
	}
	if keys := s.Keys(policy.SettingSubsets); !reflect.DeepEqual(keys, []string{"services.lake.on_empty_subset", "services.lake.default_subset", "services.lake.subsets"}) {
		t.Errorf("they come from %q", keys)
	}
	if other := load(t, "mesh: {name: m, services: {lake: {}}}").Service("lake"); other.Subsets != nil || other.DefaultSubset != "" || other.OnEmptySubset != policy.Redistribute {
		t.Errorf("without a word: %+v", other)
	}
}
