// Package configs has the mesh file that the project shows, and what editors check
// one with.
package configs

import _ "embed"

// Schema is the JSON Schema of a mesh file. It is made of the table of keys in
// package policy.
//
//go:embed mesh.schema.json
var Schema []byte
