// Package features is the manual of what the mesh file can say, as tests: a mesh
// file and a catalog go in, and what a client is sent comes out, in one process,
// without an Envoy, in milliseconds. Each feature has a page in testdata, which
// says what an operator writes and what an Envoy gets for it; what an edit moves
// and what it leaves stands in the tests.
//
// It has no code that is shipped.
package features
