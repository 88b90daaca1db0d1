package bootstrap

import (
	"bytes"
	"fmt"
	"strings"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	"go.yaml.in/yaml/v4"
	"google.golang.org/protobuf/encoding/protojson"
)

// Render returns the bootstrap of an Envoy as [YAML] has it.
func Render(o Options) ([]byte, error) {
	b, err := New(o)
	if err != nil {
		return nil, err
	}
	return YAML(b)
}

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

// restyle turns the flow style of JSON into blocks. Of the strings, those keep
// quotes that this encoder knows to need them, and those that Envoy's parser
// would take for something else.
func restyle(n *yaml.Node) {
	n.Style = 0
	if n.Kind == yaml.ScalarNode && n.Tag == "!!str" {
		switch {
		case strings.ContainsRune(n.Value, '\n'):
			n.Style = yaml.LiteralStyle
		case ambiguous(n.Value):
			n.Style = yaml.SingleQuotedStyle
		}
	}
	for _, child := range n.Content {
		restyle(child)
	}
}

// ambiguous reports whether a plain scalar may be read as a boolean or a
// number. Envoy's parser follows YAML 1.1, the encoder YAML 1.2.
func ambiguous(s string) bool {
	switch strings.ToLower(s) {
	case "", "y", "n", "yes", "no", "on", "off", "inf", "infinity", "nan":
		return true
	}
	first := s[0] | 0x20 // lower case
	return (first < 'a' || first > 'z') && s[0] != '/'
}
