// Package why follows a call through what the fleet is served, as the two Envoys on
// its way would: the host finds routes, a route matches and leads to clusters, a
// cluster has instances that may be called, the sidecar of one takes the connection,
// its rules admit the caller or not, and its rate limits bound how often. It ends in
// one sentence: what will happen, and what to change.
//
// It reads the resources, not the mesh file: there is no second model of the mesh in
// it, and it is right about what will happen even where the file was meant otherwise.
// The file is asked for lines alone.
//
// It does not know what an Envoy finds out by itself: who answers badly and is
// ejected, what its active checks say, whether an application listens.
package why
