package admin

import (
	"bytes"
	"encoding/json"
	"flag"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/openapi3gen"
	"github.com/getkin/kin-openapi/routers"

	"datapunk.dev/controlplane/admin/api"
)

var update = flag.Bool("update", false, "write the OpenAPI document anew")

const documentFile = "api/openapi.json"

// The document that is served is what the routes and their types say.
func TestTheDocumentIsOfTheRoutes(t *testing.T) {
	doc := newDocument(t)
	text, err := json.MarshalIndent(doc, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	text = append(text, '\n')
	if *update {
		if err := os.WriteFile(documentFile, text, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if !bytes.Equal(text, api.Document) {
		t.Errorf("%s is stale: go test ./admin -run Document -update", documentFile)
	}
	if err := loadDocument(t).Validate(t.Context()); err != nil {
		t.Error(err)
	}
}

var pathName = regexp.MustCompile(`\{(\w+)\}`)

// newDocument makes the document of the routes.
func newDocument(t *testing.T) *openapi3.T {
	t.Helper()
	doc := &openapi3.T{
		OpenAPI: "3.0.3",
		Info: &openapi3.Info{
			Title: "controlplane", Version: "v1",
			Description: "The operators' API of the control plane. On its own machine everybody may read; from elsewhere each call takes a " +
				"bearer token, and whatever changes something takes one of the role operate. An answer may have more fields in time, none goes.",
		},
		Servers:    openapi3.Servers{{URL: api.Prefix}},
		Paths:      openapi3.NewPaths(),
		Components: &openapi3.Components{Schemas: openapi3.Schemas{}, SecuritySchemes: openapi3.SecuritySchemes{"token": {Value: openapi3.NewSecurityScheme().WithType("http").WithScheme("bearer")}}},
	}
	generator := openapi3gen.NewGenerator(openapi3gen.CreateComponentSchemas(openapi3gen.ExportComponentSchemasOptions{ExportComponentSchemas: true, ExportTopLevelSchema: true}), openapi3gen.SchemaCustomizer(requireFields))
	schema := func(of reflect.Type) *openapi3.SchemaRef {
		ref, err := generator.NewSchemaRefForValue(reflect.New(of).Elem().Interface(), doc.Components.Schemas)
		if err != nil {
			t.Fatal(err)
		}
		if of.Kind() == reflect.Struct {
			return openapi3.NewSchemaRef("#/components/schemas/"+of.Name(), nil)
		}
		return ref
	}
	failure := schema(reflect.TypeFor[api.Error]())
	for _, r := range routes(Sources{}) {
		op := &openapi3.Operation{Summary: r.summary, OperationID: operationID(r), Responses: openapi3.NewResponses(), Extensions: map[string]any{"x-role": string(r.role)}}
		for _, name := range pathName.FindAllStringSubmatch(r.pattern, -1) {
			op.AddParameter(openapi3.NewPathParameter(name[1]).WithSchema(openapi3.NewStringSchema()))
		}
		for _, p := range r.params {
			s := openapi3.NewStringSchema()
			if p.integer {
				s = openapi3.NewIntegerSchema().WithMin(1)
			}
			for _, v := range p.values {
				s.Enum = append(s.Enum, v)
			}
			if p.repeats {
				s = openapi3.NewArraySchema().WithItems(s)
			}
			op.AddParameter(openapi3.NewQueryParameter(p.name).WithDescription(p.says).WithRequired(p.required).WithSchema(s))
		}
		if r.body != nil {
			op.RequestBody = &openapi3.RequestBodyRef{Value: openapi3.NewRequestBody().WithRequired(true).WithJSONSchemaRef(schema(r.body))}
		}
		content := openapi3.NewContentWithJSONSchemaRef(schema(r.answer))
		op.Responses = openapi3.NewResponses(openapi3.WithStatus(http.StatusOK, &openapi3.ResponseRef{Value: openapi3.NewResponse().WithDescription("as asked").WithContent(content)}))
		op.Responses.Set("default", &openapi3.ResponseRef{Value: openapi3.NewResponse().WithDescription("why it was not done").WithContent(openapi3.NewContentWithJSONSchemaRef(failure))})
		op.Security = openapi3.NewSecurityRequirements().With(openapi3.SecurityRequirement{"token": {}})
		if r.role == api.Read {
			op.Security.With(openapi3.SecurityRequirement{})
		}
		doc.AddOperation(r.pattern, r.method, op)
	}
	return doc
}

// operationID is a name that is made of method and path.
func operationID(r route) string {
	words := strings.FieldsFunc(r.pattern, func(c rune) bool { return strings.ContainsRune("/{}-", c) })
	return strings.ToLower(r.method) + "_" + strings.Join(words, "_")
}

// requireFields has the document say which fields are always there.
func requireFields(_ string, t reflect.Type, _ reflect.StructTag, schema *openapi3.Schema) error {
	if t == reflect.TypeFor[json.RawMessage]() {
		*schema = openapi3.Schema{Description: "any JSON"}
		return nil
	}
	if t == reflect.TypeFor[time.Time]() || t.Kind() != reflect.Struct {
		return nil
	}
	schema.Required = nil
	for f := range t.Fields() {
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name != "-" && !strings.Contains(options, "omit") {
			schema.Required = append(schema.Required, name)
		}
	}
	slices.Sort(schema.Required)
	return nil
}

// loadDocument returns the document, to which a field that it does not have is an error
// here: who reads an answer may take it.
func loadDocument(t testing.TB) *openapi3.T {
	t.Helper()
	doc, err := openapi3.NewLoader().LoadFromData(api.Document)
	if err != nil {
		t.Fatal(err)
	}
	no := false
	for _, s := range doc.Components.Schemas {
		if s.Value.AdditionalProperties.Has == nil && s.Value.AdditionalProperties.Schema == nil && s.Value.Type.Is("object") {
			s.Value.AdditionalProperties = openapi3.BoolSchema{Has: &no}
		}
	}
	return doc
}

// conforms reports what of an answer the document does not say.
func conforms(t testing.TB, doc *openapi3.T, r route, code int, body string) {
	t.Helper()
	item := doc.Paths.Value(r.pattern)
	if item == nil || item.GetOperation(r.method) == nil {
		t.Errorf("the document has no %s %s", r.method, r.pattern)
		return
	}
	input := &openapi3filter.ResponseValidationInput{
		RequestValidationInput: &openapi3filter.RequestValidationInput{
			Request: httptest.NewRequest(r.method, api.Prefix+r.pattern, nil),
			Route:   &routers.Route{Spec: doc, Path: r.pattern, PathItem: item, Method: r.method, Operation: item.GetOperation(r.method)},
		},
		Status: code, Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(strings.NewReader(body)),
	}
	if err := openapi3filter.ValidateResponse(t.Context(), input); err != nil {
		t.Errorf("%s %s: %v\n%s", r.method, r.pattern, err, body)
	}
}

// filled returns a value of which each field is something, so that an answer has it.
func filled[T any]() (v T) {
	fill(reflect.ValueOf(&v).Elem(), 0)
	return v
}

func fill(v reflect.Value, depth int) {
	if v.Type() == reflect.TypeFor[json.RawMessage]() {
		v.SetBytes([]byte(`{"name":"x"}`))
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString("x")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(7)
	case reflect.Uint8, reflect.Uint16, reflect.Uint64:
		v.SetUint(1)
	case reflect.Float64:
		v.SetFloat(0.5)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), depth+1)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0), depth+1)
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fill(key, depth+1)
		fill(value, depth+1)
		v.SetMapIndex(key, value)
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(time.Unix(1700000000, 0).UTC()))
			return
		}
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				fill(v.Field(i), depth+1)
			}
		}
	}
}

// fieldsOf counts the fields of a JSON value.
func fieldsOf(v any) int {
	n := 0
	switch v := v.(type) {
	case map[string]any:
		for _, one := range v {
			n += 1 + fieldsOf(one)
		}
	case []any:
		for _, one := range v {
			n += fieldsOf(one)
		}
	}
	return n
}

// Each route answers what the document says of it: a field that it does not have is as
// wrong as one that is missing, and each field of each type is in some answer.
func TestEveryRouteAnswersAsTheDocumentSays(t *testing.T) {
	doc := loadDocument(t)
	src := everySource()
	h := Handler(discard, src)
	all := routes(src)
	if got := len(all); got != operations(doc) {
		t.Errorf("the document has %d operations, and there are %d routes", operations(doc), got)
	}
	for _, r := range all {
		if r.stream {
			continue // see TestEvents
		}
		path := api.Prefix + pathName.ReplaceAllString(r.pattern, "x") + required(r)
		body := ""
		if r.body != nil {
			v := reflect.New(r.body)
			fill(v.Elem(), 0)
			text, err := json.Marshal(v.Interface())
			if err != nil {
				t.Fatal(err)
			}
			body = string(text)
		}
		code, answer := request(h, r.method, path, "good", body)
		if code != 200 {
			t.Errorf("%s %s: %d %s", r.method, path, code, answer)
			continue
		}
		conforms(t, doc, r, code, answer)
		want := reflect.New(r.answer)
		fill(want.Elem(), 0)
		text, err := json.Marshal(want.Interface())
		if err != nil {
			t.Fatal(err)
		}
		var is, whole any
		if json.Unmarshal([]byte(answer), &is) != nil || json.Unmarshal(text, &whole) != nil {
			t.Fatalf("%s %s: %s", r.method, path, answer)
		}
		if fieldsOf(is) < fieldsOf(whole) && r.role == api.Read && !strings.Contains(string(text), `"next"`) {
			t.Errorf("%s %s shows %d fields of %d: %s", r.method, path, fieldsOf(is), fieldsOf(whole), answer)
		}
		// Without a token, or the right one, the error too has the form that the document says.
		code, answer = request(h, r.method, path, "bad", body)
		if code != 401 {
			t.Errorf("%s %s with a bad token: %d", r.method, path, code)
		}
		conforms(t, doc, r, code, answer)
	}
}

// required is the query without which a route says nothing.
func required(r route) string {
	query := make(url.Values)
	for _, p := range r.params {
		if p.required {
			query.Set(p.name, "x")
		}
	}
	if len(query) == 0 {
		return ""
	}
	return "?" + query.Encode()
}

func operations(doc *openapi3.T) (n int) {
	for _, item := range doc.Paths.Map() {
		n += len(item.Operations())
	}
	return n
}

// A list that is long comes in pages, which together are the list.
func TestAListComesInPages(t *testing.T) {
	f := &fake{}
	for i := range 25 {
		f.proxies = append(f.proxies, statusOf("p"+strconv.Itoa(100+i)))
	}
	h := f.handler()
	var nodes []string
	after, pages := "", 0
	for {
		code, body := get(h, "/api/v1/proxies?limit=10&after="+after)
		var answer api.Proxies
		if err := json.Unmarshal([]byte(body), &answer); err != nil || code != 200 {
			t.Fatalf("%d %s", code, body)
		}
		for _, p := range answer.Proxies {
			nodes = append(nodes, p.Node)
		}
		pages++
		if after = answer.Next; after == "" {
			break
		}
	}
	if pages != 3 || len(nodes) != 25 || !slices.IsSorted(nodes) || len(slices.Compact(nodes)) != 25 {
		t.Errorf("%d pages: %v", pages, nodes)
	}
}
