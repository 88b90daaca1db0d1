package main

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/hashicorp/nomad/api"
	"github.com/zclconf/go-cty/cty"
)

// nomadJob reads a file as HCL, and compares each block and key of it with the
// types of Nomad's API, which say by their tags how they are written. Nomad's own
// parser does the same by the same tags; its module has no free license.
func nomadJob(path string) error {
	src, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	f, diags := hclsyntax.ParseConfig(src, path, hcl.InitialPos)
	if diags.HasErrors() {
		return diags
	}
	var errs []error
	jobs := 0
	for _, b := range f.Body.(*hclsyntax.Body).Blocks {
		switch {
		case b.Type == "job" && len(b.Labels) == 1:
			jobs++
			errs = append(errs, checkBody(b.Body, reflect.TypeFor[api.Job]()))
		case b.Type == "variable" && len(b.Labels) == 1:
		default:
			errs = append(errs, at(b.TypeRange, "%s is neither a job nor a variable with a name", b.Type))
		}
	}
	if jobs != 1 {
		errs = append(errs, fmt.Errorf("%s: %d jobs, want one", path, jobs))
	}
	return errors.Join(errs...)
}

func at(r hcl.Range, format string, args ...any) error {
	return fmt.Errorf("%s:%d: "+format, append([]any{r.Filename, r.Start.Line}, args...)...)
}

// key is a field of a type of the API, as it is written.
type key struct {
	kind string // attribute, optional, block, label
	of   reflect.Type
}

func keysOf(t reflect.Type) map[string]key {
	keys := make(map[string]key)
	for f := range fields(t) {
		name, kind, _ := strings.Cut(f.Tag.Get("hcl"), ",")
		if f.Tag.Get("hcl") == "" || kind == "label" {
			continue
		}
		if kind == "" {
			kind = "attribute"
		}
		keys[name] = key{kind, f.Type}
	}
	switch t {
	// What the parser adds to the tags.
	case reflect.TypeFor[api.NetworkResource]():
		keys["port"] = key{"block", reflect.TypeFor[api.Port]()}
	case reflect.TypeFor[api.Job]():
		keys["vault"], keys["task"] = key{"block", reflect.TypeFor[api.Vault]()}, key{"block", reflect.TypeFor[api.Task]()}
	}
	return keys
}

func fields(t reflect.Type) func(func(reflect.StructField) bool) {
	return func(yield func(reflect.StructField) bool) {
		for i := range t.NumField() {
			if !yield(t.Field(i)) {
				return
			}
		}
	}
}

// element is what a pointer, or a list of blocks, holds.
func element(t reflect.Type) reflect.Type {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	return t
}

func checkBody(b *hclsyntax.Body, t reflect.Type) error {
	keys := keysOf(t)
	var errs []error
	for name, a := range b.Attributes {
		k, ok := keys[name]
		switch {
		case ok && k.kind == "block" && k.of.Kind() != reflect.Map:
			errs = append(errs, at(a.NameRange, "%s is a block", name))
		case !ok:
			errs = append(errs, at(a.NameRange, "%s has no key %s", t.Name(), name))
		default:
			errs = append(errs, checkValue(a, k.of))
		}
	}
	for name, k := range keys {
		if k.kind == "attribute" && b.Attributes[name] == nil {
			errs = append(errs, at(b.SrcRange, "%s wants the key %s", t.Name(), name))
		}
	}
	for _, inner := range b.Blocks {
		k, ok := keys[inner.Type]
		if !ok || k.kind != "block" {
			errs = append(errs, at(inner.TypeRange, "%s has no block %s", t.Name(), inner.Type))
			continue
		}
		switch of := element(k.of); {
		case of.Kind() == reflect.Map && element(of.Elem()).Kind() == reflect.Struct: // of blocks by their label
			errs = append(errs, checkBody(inner.Body, element(of.Elem())))
		case of.Kind() == reflect.Struct:
			errs = append(errs, checkBody(inner.Body, of))
		}
	}
	return errors.Join(errs...)
}

// checkValue checks what can be known before Nomad fills in variables.
func checkValue(a *hclsyntax.Attribute, of reflect.Type) error {
	for of.Kind() == reflect.Pointer {
		of = of.Elem()
	}
	v, diags := a.Expr.Value(nil)
	if diags.HasErrors() || !v.IsWhollyKnown() {
		return nil //nolint:nilerr // it refers to a variable
	}
	wrong := func() error { return at(a.SrcRange, "%s is a %s, want %s", a.Name, v.Type().FriendlyName(), of) }
	switch {
	case of == reflect.TypeFor[time.Duration]():
		if v.Type() != cty.String {
			return wrong()
		}
		if _, err := time.ParseDuration(v.AsString()); err != nil {
			return at(a.SrcRange, "%s: %w", a.Name, err)
		}
	case of.Kind() == reflect.Bool && v.Type() != cty.Bool,
		of.Kind() == reflect.String && v.Type() != cty.String,
		(of.Kind() == reflect.Int || of.Kind() == reflect.Int8) && v.Type() != cty.Number,
		of.Kind() == reflect.Slice && !v.Type().IsTupleType():
		return wrong()
	}
	return nil
}
