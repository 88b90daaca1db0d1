// Package xds serves snapshots of configuration to proxies over the xDS
// protocol: ADS and the separate discovery services, delta and state of the
// world (SotW), secrets on the same stream.
//
// It owns the streams, what each client has and has acknowledged, the order in
// which types are sent, what happens after a NACK, who may ask for what, and
// the status of each proxy. It knows nothing of where resources come from:
// they arrive checked and encoded in a [Snapshot], and secrets with a
// private key come from an [Issuer].
//
// One goroutine a stream owns all state of that stream. Streams share what is
// immutable: views, sets of resources, encoded bytes, lists of subscribed
// names. A change costs each affected stream in proportion to the change, and
// the others nothing.
//
// The protocol's text is https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol;
// quotations in this package are from there.
package xds
