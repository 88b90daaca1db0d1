package why

import (
	"maps"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"datapunk.dev/controlplane/admission"
)

// Envoy takes headers away first, then replaces, and then adds, in whatever order they
// are written.
func TestHeadersAreTakenAwayBeforeTheyAreSet(t *testing.T) {
	const (
		beside = corev3.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD
		absent = corev3.HeaderValueOption_ADD_IF_ABSENT
		here   = corev3.HeaderValueOption_OVERWRITE_IF_EXISTS
		set    = corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD
	)
	option := func(value string, action corev3.HeaderValueOption_HeaderAppendAction) *corev3.HeaderValueOption {
		return &corev3.HeaderValueOption{Header: &corev3.HeaderValue{Key: "X", Value: value}, AppendAction: action}
	}
	for _, test := range []struct {
		name   string
		add    []*corev3.HeaderValueOption
		remove []string
		want   string
	}{
		{"set", []*corev3.HeaderValueOption{option("a", set)}, []string{"x"}, "a"},
		{"added", []*corev3.HeaderValueOption{option("a", beside)}, []string{"X"}, "a"},
		{"added beside what is there", []*corev3.HeaderValueOption{option("a", beside)}, nil, "old,a"},
		{"added, and set after it", []*corev3.HeaderValueOption{option("a", beside), option("b", set)}, nil, "b,a"},
		{"added where it is absent", []*corev3.HeaderValueOption{option("a", absent)}, nil, "old"},
		{"taken away, and so absent", []*corev3.HeaderValueOption{option("a", absent)}, []string{"x"}, "a"},
		{"taken away, and so not there to be replaced", []*corev3.HeaderValueOption{option("a", here)}, []string{"x"}, ""},
		{"replaced", []*corev3.HeaderValueOption{option("a", here)}, nil, "a"},
	} {
		before := map[string]string{"x": "old"}
		got := edited(request{admission.Request{Headers: before}}, test.add, test.remove).Headers
		if got["x"] != test.want || !maps.Equal(before, map[string]string{"x": "old"}) {
			t.Errorf("%s: %q, want %q; before %v", test.name, got["x"], test.want, before)
		}
	}
}
