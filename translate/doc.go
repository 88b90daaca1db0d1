// Package translate turns the operators' mesh and the catalog into what Envoys
// are served. [Translate] is a pure function: no I/O, no clock, no order but
// that of names, so that every replica makes the same bytes from the same input.
//
// The predecessor that Translate is given makes it cheap and changes nothing
// else. What is made of one service alone (its cluster, its assignment, its
// virtual host) is made again when that service's settings or catalog entry
// change; sets of resources are persistent, and take only what changed; what
// depends on a proxy is made once for all proxies of one [resource.Profile]. So an
// endpoint that comes or goes costs one assignment, however large the mesh is.
//
// Every resource is checked before it leaves: by the constraints of its proto,
// inside each Any too, and for what Envoy refuses or swallows beyond those.
// One that fails is held back alone, and the last good one stays in its place.
//
// The package knows Envoy's configuration and nothing of streams, of
// acknowledgements, or of where its input comes from.
package translate
