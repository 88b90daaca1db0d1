// Package policy owns the operators' mesh file: it loads it, expands its
// variables, merges files and environments, checks everything that can be
// checked without looking at the world, and works out the effective settings
// of each service and the line that each came from.
//
// It knows nothing of Envoy, Consul or gRPC. What a setting becomes is the
// business of the reader of the [Mesh]; whether a name exists is that of the
// one who has the catalog. Everything but [Load], [Validate] and [Watcher] is
// free of I/O.
//
// A file goes through these steps, each with a file of its own: tree (YAML to
// a tree whose nodes know their line), merge (files and the environment, RFC
// 7386), decode (typed, strict, all errors at once; expand fills in variables
// as scalars are read), and the checks beside each section.
package policy
