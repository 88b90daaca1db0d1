package policy_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v4"

	"datapunk.dev/controlplane/policy"
)

// schema is configs/mesh.schema.json, as an editor has it.
func schema(t testing.TB) *jsonschema.Schema {
	t.Helper()
	s, err := jsonschema.NewCompiler().Compile(filepath.Join("..", "configs", "mesh.schema.json"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// validate is what an editor says of a mesh file.
func validate(s *jsonschema.Schema, text string) error {
	var file any
	if err := yaml.Load([]byte(text), &file); err != nil {
		return err
	}
	return s.Validate(file)
}

// What loads, an editor does not underline.
func TestTheSchemaTakesWhatLoads(t *testing.T) {
	s := schema(t)
	valid := map[string]string{"layered": layered, "environments": withEnvironments, "the whole vocabulary": wholeVocabulary}
	for _, test := range warnings {
		valid[test.name] = "mesh:\n  name: m\n" + test.text
	}
	paths, err := filepath.Glob(filepath.Join("..", "configs", "*.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	examples, err := filepath.Glob(filepath.Join("..", "configs", "examples", "*.yaml"))
	if err != nil || len(examples) < 5 {
		t.Fatalf("examples: %q, %v", examples, err)
	}
	for _, path := range append(append(paths, examples...), filepath.Join("testdata", "seed.yaml"), filepath.Join("testdata", "variables.yaml")) {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		valid[path] = string(text)
	}
	for name, text := range valid {
		if _, err := parse(text, "SERVICE_VERSION=1"); err != nil {
			t.Errorf("%s does not load: %v", name, err)
		}
		if err := validate(s, text); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Of several files only one need have the name.
	if err := validate(s, "mesh: {policies: {timeout: {connect: 1s}}}"); err != nil {
		t.Error(err)
	}
}

// What one key by itself makes wrong, an editor underlines. What several keys
// make wrong together, and what takes more than a pattern to find, only the
// loader knows.
func TestTheSchemaRefusesWhatDoesNotLoad(t *testing.T) {
	s := schema(t)
	alone := []policy.Code{
		policy.CodeUnknownKey, policy.CodeType, policy.CodeUnsupported, policy.CodeDuration, policy.CodeRange, policy.CodeWord,
		policy.CodeRetryOn, policy.CodeMultiplier, policy.CodeDuplicateKey,
	}
	beyond := map[string]bool{ // a schema cannot say it
		"no time to connect": true, "octal": true,
		"a tag twice":                            true,
		"a rotation whose double is no duration": true, "a life beyond the authority's": true,
		"a limit faster than Envoy's": true, "a duration that Envoy refuses": true, "a duration that Envoy takes for none": true,
	}
	refused := 0
	for _, test := range mistakes {
		text := "mesh:\n  name: m\n" + test.text
		_, err := parse(text)
		if len(problems(t, err)) == 0 {
			t.Errorf("%s loads", test.name)
		}
		found := validate(s, text) != nil
		if found {
			refused++
		}
		if slices.Contains(alone, problems(t, err)[0].Code) && found == beyond[test.name] {
			t.Errorf("%s: refused by the schema: %v; it is %v", test.name, found, err)
		}
	}
	for _, test := range refusedPolicies {
		text := "mesh: {name: m, security: {authorization: {policies: [" + test.text + "]}}}"
		found := validate(s, text) != nil
		if found {
			refused++
		}
		if !found && slices.Contains(append(alone, policy.CodeMissing), policy.Code(test.code)) {
			t.Errorf("a policy %s passes the schema", test.name)
		}
	}
	if refused < 75 {
		t.Errorf("the schema refuses %d files", refused)
	}
	if err := validate(s, "mesh: {circuit_breakers: {default: {max_conections: 1}}}"); err == nil || !strings.Contains(err.Error(), "max_conections") {
		t.Errorf("the key that nobody knows is not named: %v", err)
	}
}
