package wire

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	corepb "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
)

// What a proxy says of its instance is bounded by what a catalog takes.
func TestAnInstanceIsBounded(t *testing.T) {
	many := make([]any, maxTags+1)
	meta := make(map[string]any)
	for i := range many {
		many[i] = "tag"
		meta[fmt.Sprint("k", i)] = "v"
	}
	for name, metadata := range map[string]map[string]any{
		"tags":        {"tags": many},
		"a tag":       {"tags": []any{strings.Repeat("x", maxTag+1)}},
		"metadata":    {"meta": meta},
		"a key of it": {"meta": map[string]any{strings.Repeat("k", maxMetaKey+1): "v"}},
		"a value":     {"meta": map[string]any{"k": strings.Repeat("v", maxMetaValue+1)}},
		"the version": {"version": strings.Repeat("v", maxZone+1)},
	} {
		if _, err := nodeOf(t, metadata); !errors.Is(err, ErrTooMuch) {
			t.Errorf("%s: %v", name, err)
		}
	}
	n, err := nodeOf(t, map[string]any{"tags": "one", "meta": []any{"x"}, "version": 3.0, "other": "y"})
	if err != nil || len(n.Instance().Tags)+len(n.Instance().Meta) != 0 || n.Instance().Version != "3" {
		t.Errorf("%+v: %v", n.Instance(), err)
	}
}

func nodeOf(t *testing.T, metadata map[string]any) (*Node, error) {
	t.Helper()
	fields, err := structpb.NewStruct(metadata)
	if err != nil {
		t.Fatal(err)
	}
	body, err := proto.Marshal(&corepb.Node{Id: "nexus-1", Cluster: "nexus", Metadata: fields})
	if err != nil {
		t.Fatal(err)
	}
	return parseNode(body)
}
