package xds

import (
	"regexp"
	"strings"

	"datapunk.dev/controlplane/resource"
)

// Why a proxy refused a resource: for what the resource is, or for something on
// its own machine or in its own build. The second kind says nothing to other
// proxies, so it is recorded as that proxy's and counts for no quarantine.
//
// Envoy's code is "internal" for all of it, so the text has to say. What is
// known here was produced with Envoy 1.40; TestEnvoyCauses produces it again,
// and cause_test.go has the texts. Any other text counts as a refusal of the
// content: a content that is bad must not reach the whole fleet, while one that
// is good is proven so by the proxies that take it, or come back with it.

// The causes that lie with the proxy. They are labels of a metric.
const (
	causeAddressInUse = "address_in_use"       // something else listens there
	causeNoAddress    = "address_not_here"     // the machine has no such address, or no IPv6
	causePermission   = "permission_denied"    // a privileged port, a file of somebody else
	causeFile         = "file"                 // it is not there, or no such thing
	causeResources    = "out_of_resources"     // memory, disk, file descriptors
	causeSocket       = "socket"               // the kernel refuses the socket for another reason
	causeBuild        = "not_in_its_build"     // an extension or a field that this Envoy does not have
	causeListener     = "address_of_its_other" // another listener of the same Envoy has the address
)

var ownCauses = []string{
	causeAddressInUse, causeNoAddress, causePermission, causeFile, causeResources, causeSocket, causeBuild, causeListener,
}

// errnoCauses are what a kernel says, at the end of a text.
var errnoCauses = []struct{ words, cause string }{
	{"Address already in use", causeAddressInUse},
	{"Cannot assign requested address", causeNoAddress},
	{"Address family not supported by protocol", causeNoAddress},
	{"Permission denied", causePermission},
	{"Operation not permitted", causePermission},
	{"Read-only file system", causePermission},
	{"No such file or directory", causeFile},
	{"Is a directory", causeFile},
	{"Not a directory", causeFile},
	{"Too many levels of symbolic links", causeFile},
	{"No such device or address", causeFile},
	{"Too many open files", causeResources},
	{"Too many open files in system", causeResources},
	{"Cannot allocate memory", causeResources},
	{"No space left on device", causeResources},
	{"No buffer space available", causeResources},
	{"Disk quota exceeded", causeResources},
	{"Input/output error", causeResources},
	{"No such device", causeSocket},
	{"Protocol not available", causeSocket},
	{"Operation not supported", causeSocket},
}

// textCauses are the beginnings of texts that do not end with the kernel's words.
var textCauses = []struct {
	begin *regexp.Regexp
	cause string
}{
	{regexp.MustCompile(`^cannot bind '[^']*': `), causeSocket},
	{regexp.MustCompile(`^ListenSocket: Setting socket options failed`), causeSocket},
	{regexp.MustCompile(`^IPv[46] addresses are not supported on this machine`), causeNoAddress},
	{regexp.MustCompile(`^error adding listener: '[^']*' has duplicate address `), causeListener},
	{regexp.MustCompile(`^Invalid path: /`), causeFile},
	{regexp.MustCompile(`^unable to (open|read) file`), causeFile},
	{regexp.MustCompile(`^unable to add filesystem watch for file `), causeFile},
	{regexp.MustCompile(`^paths must refer to an existing path in the system: `), causeFile},
	// With "<inline>" for the path the certificate itself is bad.
	{regexp.MustCompile(`^Failed to load incomplete (private key|certificate) from (path: )?/`), causeFile},
	{regexp.MustCompile(`^(cluster: )?([Dd]idn't|Can't) find a registered `), causeBuild},
	{regexp.MustCompile(`^Protobuf message \(type .*\) has unknown fields`), causeBuild},
}

// constraint begins the text of a resource that breaks a constraint of its
// type. The resource is in the text, with all that an operator wrote.
const constraint = "Proto constraint validation failed"

// addedPrefixes are what Envoy writes before the cause, and the name.
var addedPrefixes = [resource.NumTypes]string{
	resource.Cluster:  "Error adding/updating cluster(s) ",
	resource.Listener: "Error adding/updating listener(s) ",
}

// ownCause says what on the proxy's own machine or in its build made it refuse
// a resource, which was alone in its response; empty: the resource did. The
// text is normalized.
func ownCause(t resource.Type, name, text string) string {
	if p := addedPrefixes[t]; p != "" {
		text = strings.TrimPrefix(text, p+name+": ")
	}
	if strings.HasPrefix(text, constraint) {
		return ""
	}
	if i := strings.LastIndex(text, ": "); i >= 0 {
		for _, e := range errnoCauses {
			if text[i+2:] == e.words {
				return e.cause
			}
		}
	}
	for _, c := range textCauses {
		if c.begin.MatchString(text) {
			return c.cause
		}
	}
	return ""
}
