// Package policy owns the operators' mesh file: it loads it, expands its
// variables, merges files and environments, checks everything that can be
// checked without looking at the world, and works out the effective settings
// of each service and the line that each came from.
//
// It knows nothing of Envoy, Consul or gRPC. What a setting becomes is the
// business of the reader of the [Mesh]; whether a name exists is that of the
// one who has the catalog. Everything but [Load], [Validate], [ReadRevision] and
// [Watcher] is free of I/O.
//
// A file goes through these steps: package yamlfile makes a tree whose nodes
// know their line, merge lays files and the environment over each other (RFC
// 7386), and each section is read by its table of keys (key.go and keys_*.go;
// expand fills in variables as scalars are read), which reports all errors at
// once. What concerns several keys is checked beside the reader of the section.
//
// To add a key takes a field in mesh.go and a row in a table. From the row come
// the decoder, the default, did-you-mean, the tables of docs/mesh-file.md and
// configs/mesh.schema.json; go test ./policy -update writes the last two.
package policy
