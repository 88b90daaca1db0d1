package bootstrap

import (
	"bytes"
	"fmt"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	"go.yaml.in/yaml/v4"
	"google.golang.org/protobuf/encoding/protojson"
)

// YAML renders a bootstrap as Envoy reads it, in the order of its fields;
// equal bootstraps give equal bytes.
func YAML(b *bootstrapv3.Bootstrap) ([]byte, error) {
	data, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(b)
	if err != nil {
		return nil, fmt.Errorf("render bootstrap: %w", err)
	}
	// JSON is YAML: its document, in another style. The order is kept, and the
	// blanks, which protojson varies on purpose, are not.
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		return nil, fmt.Errorf("render bootstrap: %w", err)
	}
	restyle(&doc)
	var out bytes.Buffer
	dumper, err := yaml.NewDumper(&out, yaml.WithIndent(2), yaml.WithLineWidth(-1))
	if err != nil {
		return nil, fmt.Errorf("render bootstrap: %w", err)
	}
	if err := dumper.Dump(&doc); err != nil {
		return nil, fmt.Errorf("render bootstrap: %w", err)
	}
	if err := dumper.Close(); err != nil {
		return nil, fmt.Errorf("render bootstrap: %w", err)
	}
	return out.Bytes(), nil
}

// restyle turns the flow style of JSON into blocks. Strings keep their quotes
// only where they need them, which the encoder knows.
func restyle(n *yaml.Node) {
	n.Style = 0
	if n.Kind == yaml.ScalarNode && n.Tag == "!!str" && bytes.ContainsRune([]byte(n.Value), '\n') {
		n.Style = yaml.LiteralStyle
	}
	for _, child := range n.Content {
		restyle(child)
	}
}
