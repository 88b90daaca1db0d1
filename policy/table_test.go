package policy

import (
	"go/ast"
	goparser "go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// Every key says what it is, and has one default at most; another form of the
// key above it takes what that takes; no key stands twice in its section.
func TestEveryRowIsWhole(t *testing.T) {
	walk(documentKeys.section(), "", func(path string, k key) {
		if k.mayBeWritten() && k.says == "" && !regexp.MustCompile(`\.(not_\w+|key_file)$`).MatchString(path) {
			t.Errorf("%s says nothing", path)
		}
		if k.def != "" && k.unset != "" || (k.required && (k.def != "" || k.unset != "")) {
			t.Errorf("%s has several defaults", path)
		}
		if k.mayBeWritten() && k.code == "" && k.form != formSection && k.form != formNames && k.form != formList && k.what != "text" {
			t.Errorf("%s has no code for what it refuses", path)
		}
		if k.section != nil {
			seen := make(map[string]bool)
			for _, inner := range k.section.keys {
				if seen[inner.name] {
					t.Errorf("%s.%s stands twice", path, inner.name)
				}
				seen[inner.name] = true
			}
		}
	})
}

// A default is a value that the key itself takes.
func TestEveryDefaultIsAValueOfItsKey(t *testing.T) {
	n := 0
	walk(documentKeys.section(), "", func(path string, k key) {
		if k.def == "" {
			return
		}
		n++
		def := k.def
		if k.form == formList {
			def = "[" + def + "]"
		}
		_, err := Parse([]File{{Name: "mesh.yaml", Data: []byte(filed(path, def))}}, Options{})
		if strings.HasPrefix(path, "mesh.routes[]") || strings.HasPrefix(path, "mesh.policies.rate_limit.server.") { // wants other keys beside it
			ps, _ := err.(Problems) //nolint:errorlint // Parse wraps nothing
			at := strings.ReplaceAll(path, "[]", "[0]")
			if !slices.ContainsFunc(ps, func(p Problem) bool { return p.Key == at }) {
				return
			}
		}
		if err != nil {
			t.Errorf("%s: %s is refused: %v", path, def, err)
		}
	})
	if n < 40 {
		t.Errorf("%d defaults: the walk is short", n)
	}
}

// filed is a file with a value at a path.
func filed(path, value string) string {
	names := strings.Split(strings.TrimPrefix(path, "mesh."), ".")
	text := value
	for _, name := range slices.Backward(names) {
		name = strings.ReplaceAll(name, "X", "x1")
		if list, ok := strings.CutSuffix(name, "[]"); ok {
			text = "{" + list + ": [" + text + "]}"
			continue
		}
		text = "{" + name + ": " + text + "}"
	}
	return "mesh: {name: m, " + strings.TrimPrefix(text, "{") + "\n"
}

// A key that stands in the table and that nobody reads would be accepted and
// do nothing. So each is given what it cannot take, and must be blamed.
func TestEveryKeyIsRead(t *testing.T) {
	n := 0
	walk(documentKeys.section(), "", func(path string, k key) {
		if path == "mesh" || path == "mesh.name" {
			return
		}
		n++
		wrong := "{bogus: 1}"
		if k.form == formSection || k.form == formNames {
			wrong = "bogus"
		}
		key := regexp.MustCompile(`\bX\b`).ReplaceAllString(strings.ReplaceAll(path, "[]", "[0]"), "x1")
		for _, environment := range []string{"", "x1"} {
			at := key
			if environment != "" {
				at = strings.Replace(key, "mesh.environments.x1", "mesh", 1)
			}
			if environment == "" && strings.HasPrefix(path, "mesh.environments.") || environment != "" && at == key {
				continue
			}
			_, err := Parse([]File{{Name: "mesh.yaml", Data: []byte(filed(path, wrong))}}, Options{Environment: environment})
			ps, _ := err.(Problems) //nolint:errorlint // Parse wraps nothing
			// Of a map of texts its value is blamed.
			if !slices.ContainsFunc(ps, func(p Problem) bool { return p.Key == at || p.Key == at+".bogus" }) {
				t.Errorf("%s: %s is accepted: %v", path, wrong, err)
			}
		}
	})
	if n < 250 {
		t.Errorf("%d keys: the walk is short", n)
	}
}

// A key that our own code asks a section for, by name, is a key of the table.
func TestTheKeysThatAreAskedForAreOfTheTable(t *testing.T) {
	names := make(map[string]bool)
	walk(documentKeys.section(), "", func(_ string, k key) { names[k.name] = true })
	asked := 0
	ask := func(at token.Position, e ast.Expr) {
		lit, ok := e.(*ast.BasicLit)
		if !ok || lit.Kind != token.STRING {
			return
		}
		name, err := strconv.Unquote(lit.Value)
		if asked++; err != nil || !names[name] {
			t.Errorf("%v: %s is no key of the table", at, lit.Value)
		}
	}
	methods := []string{"has", "got", "peek", "items", "section", "first", "keyOf", "unknown", "writes", "checkNotEmpty"}
	sources(t, ".", func(set *token.FileSet, file *ast.File) {
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.CallExpr:
				if method, ok := n.Fun.(*ast.SelectorExpr); ok && slices.Contains(methods, method.Sel.Name) {
					args := n.Args
					if method.Sel.Name == "unknown" {
						args = args[:1] // what follows is the hint
					}
					for _, arg := range args {
						ask(set.Position(arg.Pos()), arg)
					}
				}
			case *ast.RangeStmt: // for _, name := range []string{…}
				words, ok := n.X.(*ast.CompositeLit)
				if name, named := n.Value.(*ast.Ident); ok && named && name.Name == "name" {
					for _, word := range words.Elts {
						ask(set.Position(word.Pos()), word)
					}
				}
			}
			return true
		})
	})
	if asked < 100 {
		t.Errorf("%d keys are asked for: the walk is short", asked)
	}
}

// A path of keys that stands in our own code, to find the line of a NACK or to
// tell operators what to write, is one of the table.
func TestThePathsInTheCodeAreOfTheTable(t *testing.T) {
	var paths []string
	sections := make(map[string]bool)
	walk(documentKeys.section(), "", func(path string, k key) {
		paths = append(paths, "."+path)
		if k.form == formNames {
			paths = append(paths, "."+path+".X")
		}
		if k.section != nil {
			sections[k.name] = true
		}
	})
	known := func(path string) bool {
		return slices.ContainsFunc(paths, func(p string) bool { return strings.HasSuffix(p, "."+path) })
	}
	for s := range numSettings {
		if !known("services.X." + s.String()) {
			t.Errorf("%s is a setting, and no key of a service", s)
		}
	}
	dotted := regexp.MustCompile(`\b[a-z_]+(\.[a-zA-Z0-9_]+)+`)
	named := regexp.MustCompile(`^(services|circuit_breakers\.custom)\.\w+`)
	fileName := regexp.MustCompile(`\.(md|txt|pem|crt|key)$`)
	seen := 0
	for _, room := range []string{".", "../translate", "../control", "../cmd", "../watch", "../xds", "../sds", "../admin", "../bootstrap"} {
		sources(t, room, func(set *token.FileSet, file *ast.File) {
			ast.Inspect(file, func(n ast.Node) bool {
				if _, ok := n.(*ast.ImportSpec); ok {
					return false
				}
				lit, ok := n.(*ast.BasicLit)
				if !ok || lit.Kind != token.STRING {
					return true
				}
				for _, path := range dotted.FindAllString(lit.Value, -1) {
					first, _, _ := strings.Cut(path, ".")
					if !sections[first] || fileName.MatchString(path) || path == "circuit_breakers.thresholds.max_connections" || path == "request.url_path" || strings.HasPrefix(path, "grpc.health.") { // Envoy's and gRPC's
						continue
					}
					seen++
					if !known(named.ReplaceAllString(path, "$1.X")) {
						t.Errorf("%v: %s is no key of the table", set.Position(lit.Pos()), path)
					}
				}
				return true
			})
		})
	}
	if seen < 25 {
		t.Errorf("%d paths: the walk is short", seen)
	}
}

// sources visits the files of a room that are no tests.
func sources(t *testing.T, room string, visit func(*token.FileSet, *ast.File)) {
	t.Helper()
	err := filepath.WalkDir(room, func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		set := token.NewFileSet()
		file, err := goparser.ParseFile(set, path, nil, 0)
		if err == nil {
			visit(set, file)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
