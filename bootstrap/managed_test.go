package bootstrap

import (
	"strings"
	"testing"
)

func TestTagsAndMetaAreInTheNodesMetadata(t *testing.T) {
	b, err := New(sidecar(t, func(o *Options) { o.Tags, o.Meta = []string{"blue", "v2"}, map[string]string{"team": "lake"} }))
	if err != nil {
		t.Fatal(err)
	}
	m := b.GetNode().GetMetadata().AsMap()
	tags, _ := m["tags"].([]any)
	meta, _ := m["meta"].(map[string]any)
	if len(tags) != 2 || tags[0] != "blue" || tags[1] != "v2" || len(meta) != 1 || meta["team"] != "lake" {
		t.Errorf("metadata %v", m)
	}
}

func TestTagsAndMetaThatNoCatalogTakes(t *testing.T) {
	for name, change := range map[string]func(*Options){
		"an empty tag":    func(o *Options) { o.Tags = []string{""} },
		"a long tag":      func(o *Options) { o.Tags = []string{strings.Repeat("t", 257)} },
		"a line break":    func(o *Options) { o.Tags = []string{"a\nb"} },
		"too many tags":   func(o *Options) { o.Tags = strings.Split(strings.Repeat("t,", 64)+"t", ",") },
		"a key of ours":   func(o *Options) { o.Meta = map[string]string{"mesh_port": "1"} },
		"a key with dots": func(o *Options) { o.Meta = map[string]string{"a.b": "1"} },
		"a long value":    func(o *Options) { o.Meta = map[string]string{"a": strings.Repeat("v", 513)} },
	} {
		if _, err := New(sidecar(t, change)); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}
