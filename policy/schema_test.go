package policy

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v4"
)

// configs/mesh.schema.json, for editors, is made of the table of keys:
//
//	go test ./policy -run TestTheSchema -update
func TestTheSchemaSaysWhatTheTableSays(t *testing.T) {
	path := filepath.Join("..", "configs", "mesh.schema.json")
	text := schemaText(t)
	if *Update {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	old, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(old, text) {
		t.Error("configs/mesh.schema.json is not what the table of keys says: go test ./policy -run TestTheSchema -update")
	}
}

// Whatever a key takes, however it is written, an editor does not underline.
func TestTheSchemaTakesEveryValueThatAKeyTakes(t *testing.T) {
	schema, err := jsonschema.NewCompiler().Compile(filepath.Join("..", "configs", "mesh.schema.json"))
	if err != nil {
		t.Fatal(err)
	}
	values := []string{
		"", "null", "~", `""`, "a", "A", "a b", "a.b", "a-b_c", "é", "'1'", `"a: b"`, "$", "a$$b", "'${A}'", "'x${A}y'", "'${B:-1}'",
		"0", "1", "2", "7", "50", "100", "101", "503", "65535", "65536", "4294967295", "4294967296", "1_024", "'1_024'", "010", "0x10", "1e2", "+1", "-0", "-1", "2.0",
		"0.5", ".5", "5.", "1e-3", "'1e-3'", ".inf", ".nan", "true", "True", "'TRUE'", "false", "yes",
		"5s", "'5s'", "+5s", "-5s", "1h30m", ".5s", "5.s", "1.5h", "250ms", "3us", "3µs", "3ns", "0s", "1d", "5 s",
		"/", "/a", "/a*", "'*'", "/a?b", "GET", "PURGE", "get", "x-user", "':authority'", "'^a+$'", "::1", "10.0.0.1", "'a:1'", "'[::1]:1'",
		"spiffe://m/*", "spiffe://m/a*/b", "spiffe://x/a", "2001-01-01", "!!binary aGk=",
		"{}", "[]", "[a]", "['1', 1]", "[503]", "[GET, HEAD]", "{x-a: 1}", "[{x-a: 1}]", "&a a", "!!str 1",
	}
	for _, words := range [][]string{retryConditions(), {"consul", "http", "https", "stale", "least_request", "maglev", "tcp", "grpc", "otlp", "json", "permissive", "DENY", "ALLOW", "shadow"}} {
		values = append(values, words...)
	}
	taken := 0
	walk(documentKeys.section(), "", func(path string, k key) {
		if strings.HasPrefix(path, "mesh.environments.") || !k.mayBeWritten() {
			return
		}
		for _, v := range values {
			text := filed(path, v)
			options := Options{LookupEnv: func(name string) (string, bool) { return "5", name == "A" }}
			if _, err := Parse([]File{{Name: "mesh.yaml", Data: []byte(text)}}, options); err != nil {
				continue
			}
			taken++
			var file any
			if err := yaml.Load([]byte(text), &file); err != nil {
				t.Errorf("%s: %v", text, err)
			} else if err := schema.Validate(file); err != nil {
				t.Errorf("%s loads, and the schema refuses it: %v", text, err)
			}
		}
	})
	if taken < 1500 {
		t.Errorf("%d values are taken: the walk is short", taken)
	}
}

type jsonObject = map[string]any

func schemaText(t *testing.T) []byte {
	t.Helper()
	defs := jsonObject{
		"variable": jsonObject{
			"description": "filled in from the environment of the control plane",
			"type":        "string", "pattern": `\$\{`,
		},
	}
	root := schemaSection(documentKeys.section(), defs)
	root["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	root["title"] = "The mesh file"
	root["description"] = "Generated from the table of keys in package policy. One file of several need not be whole, so mesh.name is not required here."
	root["$defs"] = defs
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(root); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// schemaSection is a section, or nothing, which is as if it were not written.
func schemaSection(s *section, defs jsonObject) jsonObject {
	properties := jsonObject{}
	var required []string
	for _, k := range s.keys {
		if !k.mayBeWritten() {
			continue
		}
		property := schemaValue(k.shape, defs)
		if k.says != "" {
			property["description"] = schemaSentence(k)
		}
		if k.def != "" {
			property["default"] = schemaDefault(k)
		}
		properties[k.name] = property
		// Another file may have the name of the mesh.
		if k.required && s.name != "environment" && s.name != "mesh" {
			required = append(required, k.name)
		}
	}
	out := jsonObject{
		"type": []string{"object", "null"}, "properties": properties, "additionalProperties": false,
		"patternProperties": jsonObject{"^x-": true},
	}
	if required != nil {
		out["required"] = required
	}
	return out
}

func schemaSentence(k key) string {
	text := strings.ToUpper(k.says[:1]) + k.says[1:] + "."
	if k.def == "" && k.unset != "" {
		text += " Default: " + k.unset + "."
	}
	return text
}

func schemaDefault(k key) any {
	switch k.form {
	case formList:
		return strings.Split(k.def, ", ")
	case formBoolean, formWhole, formReal:
		return json.RawMessage(k.def)
	}
	return k.def
}

// schemaReference refers to the definition of a section, so that each stands
// once.
func schemaReference(s *section, defs jsonObject) jsonObject {
	if _, ok := defs[s.name]; !ok {
		defs[s.name] = nil // it may contain itself one day
		defs[s.name] = schemaSection(s, defs)
	}
	return jsonObject{"$ref": "#/$defs/" + s.name}
}

// schemaValue is what a key takes. A value may be a variable, wherever it
// stands; a number or a boolean in quotes is one all the same; and nothing is
// as if the key were not written.
func schemaValue(s shape, defs jsonObject) jsonObject {
	const orVariable = `|\$\{`
	switch s.form {
	case formBoolean:
		return jsonObject{"type": []string{"boolean", "string", "null"}, "pattern": "^(true|True|TRUE|false|False|FALSE)$" + orVariable}
	case formWhole:
		return jsonObject{"type": []string{"integer", "string", "null"}, "minimum": s.least, "maximum": s.most, "pattern": "^[0-9][0-9_]*$" + orVariable}
	case formReal:
		return jsonObject{"type": []string{"number", "string", "null"}, "minimum": s.least, "maximum": s.most, "pattern": "^[-+.0-9eE_]+$" + orVariable}
	case formDuration:
		return jsonObject{"type": []string{"string", "null"}, "pattern": `^\+?(([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))+$` + orVariable}
	case formWord:
		words := []any{nil}
		for _, word := range s.words {
			words = append(words, word)
		}
		return jsonObject{"anyOf": []jsonObject{{"enum": words}, {"$ref": "#/$defs/variable"}}}
	case formList:
		return jsonObject{"type": []string{"array", "null"}, "items": schemaValue(*s.item, defs)}
	case formSection:
		if s.orText == nil {
			return schemaReference(s.section, defs)
		}
		return jsonObject{"anyOf": []jsonObject{schemaValue(*s.orText, defs), schemaReference(s.section, defs)}}
	case formTexts:
		return jsonObject{
			"type": []string{"object", "null"}, "patternProperties": jsonObject{"^x-": true},
			"additionalProperties": jsonObject{"type": []string{"string", "null"}},
		}
	case formNames:
		return jsonObject{
			"type": []string{"object", "null"}, "patternProperties": jsonObject{"^x-": true},
			"additionalProperties": schemaReference(s.section, defs),
		}
	}
	out := jsonObject{"type": []string{"string", "null"}}
	if s.pattern != "" {
		out["pattern"] = s.pattern + orVariable
	}
	return out
}
