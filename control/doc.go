// Package control is the running control plane but for its sockets. It is the
// only room that knows all below it, and it knows nothing of Envoy's messages or
// of HTTP.
//
// [Loop] is the one event loop: it takes the newest catalog, mesh file, fleet
// and trust bundle, has them translated, and hands the result to xds (stages: in
// which order mTLS comes and goes; contain: what a panic does not take with it;
// convergence: how long a change takes to the last proxy).
// [Catalogs] keeps the source of the catalog running that the mesh file names.
//
// [Plane] is the process around it, in a file for each thing that it does: how
// it begins and ends (run), which mesh file it adopts or refuses (plane, accept),
// which it begins with, holds and keeps (meshfile, meant, [Revisions]), whom it lets in
// (identity, calls), and what it reports (readiness, metrics, scrape).
package control
