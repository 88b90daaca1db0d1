package xds

import (
	"testing"

	"datapunk.dev/controlplane/resource"
)

// The texts are those of Envoy 1.40, but for the ports and paths.
func TestCausesOfARefusal(t *testing.T) {
	const added = "Error adding/updating listener(s) l4: "
	const addedCluster = "Error adding/updating cluster(s) l4: "
	for _, tt := range []struct {
		typ        resource.Type
		text, want string
	}{
		{lds, added + "cannot bind '127.0.0.1:15001': Address already in use", causeAddressInUse},
		{lds, added + "cannot bind '0.0.0.0:9102': Address already in use", causeAddressInUse},
		{lds, added + "cannot bind '10.9.9.9:20000': Cannot assign requested address", causeNoAddress},
		{lds, added + "cannot bind '[::1]:20000': Cannot assign requested address", causeNoAddress},
		{lds, added + "IPv6 addresses are not supported on this machine: ::1", causeNoAddress},
		{lds, added + "cannot bind '127.0.0.1:80': Permission denied", causePermission},
		{lds, added + "cannot bind '/run/mesh/out.sock': No such file or directory", causeFile},
		{lds, added + "cannot bind '127.0.0.1:80': words of another kernel", causeSocket},
		{lds, added + "ListenSocket: Setting socket options failed", causeSocket},
		{lds, added + "unable to open file '/var/log/mesh/access.log': No such file or directory", causeFile},
		{lds, added + "unable to open file '/var/log/mesh/access.log': Permission denied", causePermission},
		{lds, added + "unable to open file '/tmp': Is a directory", causeFile},
		{lds, added + "unable to open file '/var/log/mesh/access.log': No space left on device", causeResources},
		{lds, added + "unable to open file '/var/log/mesh/access.log': Too many open files", causeResources},
		{lds, added + "Invalid path: /etc/mesh/ca.pem", causeFile},
		{lds, added + "Failed to load incomplete private key from path: /etc/mesh/key.pem", causeFile},
		{cds, addedCluster + "Failed to load incomplete certificate from /etc/mesh/cert.pem: certificate chain not set", causeFile},
		{cds, addedCluster + "paths must refer to an existing path in the system: '/etc/mesh/eds' does not exist", causeFile},
		{lds, added + "Didn't find a registered implementation for 'new.filter' with type URL: 'envoy.extensions.filters.network.new.v3.New'", causeBuild},
		{cds, addedCluster + "Didn't find a registered network or http filter or protocol options implementation for name: 'envoy.new'", causeBuild},
		{cds, addedCluster + "cluster: didn't find a registered load balancer factory implementation for cluster: 'l4' with names from [new]", causeBuild},
		{rds, "Protobuf message (type envoy.config.route.v3.RouteConfiguration with unknown field set {99}) has unknown fields", causeBuild},
		{lds, added + "error adding listener: 'l4' has duplicate address '127.0.0.1:9102' as existing listener, to check if the listener has duplicated addresses with other listeners or 'enable_reuse_port' is set to 'false' for the listener", causeListener},

		// The content is bad, wherever it goes.
		{cds, addedCluster + "Invalid load balancing policy", ""},
		{cds, addedCluster + "Failed to load incomplete certificate from <inline>: certificate chain not set", ""},
		{lds, added + "Failed to load private key from <inline>, Cause: error:0900006e:PEM routines:OPENSSL_internal:NO_START_LINE", ""},
		{eds, "malformed IP address: nowhere", ""},
		{rds, "Only unique values for domains are permitted. Duplicate entry of domain a in route out", ""},
		// What an operator wrote is in such a text, and is no cause.
		{lds, constraint + " (ListenerValidationError.Name): body: \"cannot bind '127.0.0.1:15001': Address already in use", ""},
		{rds, "route: cannot bind 'x': of a header", ""},
		// What nobody has seen yet counts as the content's.
		{lds, added + "something new", ""},
		{lds, "", ""},
	} {
		if got := ownCause(tt.typ, "l4", tt.text); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.text, got, tt.want)
		}
	}
}
