// Package consul fills the catalog from Consul: one blocking query a service,
// and one for the list of services. It owns what is known of reading Consul:
// index rules, consistency, back-off, what to ask without enough connections,
// and the answers that are 200 and wrong. It registers nothing. How Consul is
// reached is the business of [datapunk.dev/controlplane/consul].
//
// # What a reader can rely on
//
// Nothing is published before the list of services and the first answer of
// each are in. From then on an addition, a change of health or weight and an
// ordinary deregistration are published at once; a removal that looks like the
// loss of a catalog, or of an agent, is held until consistent reads or the
// instances' sidecars confirm it (the table is in guard.go). While Consul cannot be
// read, the last good catalog stays.
//
// What the mesh file does not select is left out of each answer here, and is not
// doubted. Of an edit that is right, for somebody has said so. Of an answer it is a
// limit: all instances that come without the tag, or that stop passing where only those
// that pass are selected, are out at once, however many. Services that are excluded by
// name are not watched.
//
// Consul compares names without their case; here each has its own entries alone.
//
// # Connections
//
// Over plain HTTP each blocking query holds a connection, and an agent refuses a
// client its 201st. Where there are more services than that, those have a watch of
// their own that change, and that are not empty; the others share a few reads: of
// the checks that do not pass, of registrations, and of all checks when it is not
// known whose registration it was. They make a service read again. What changes no
// check (a port, a weight, an instance without any) is found by reading the
// services in turn, some 50 a second, and at the latest within one wait.
package consul
