// Package resource is what the rooms of the control plane agree on: the types of
// xDS resources and their order, resources and sets of them, the kinds and
// profiles of clients, the fleet, what each client is to see, and the names that
// are the mesh's own.
//
// Everything in it is an immutable value, shared by pointer, that knows what its
// last steps changed ([History]): so a reader's work is in proportion to the
// change, and not to the size of the mesh.
//
// It knows nothing of the mesh file, of the catalog, of Envoy's messages, or of
// gRPC, and imports no other room.
package resource
