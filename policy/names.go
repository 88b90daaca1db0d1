package policy

import (
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"datapunk.dev/controlplane/resource"
)

// checkServiceName refuses what cannot be a service: its name is the last
// segment of its SPIFFE ID.
func (v value) checkServiceName(name string) bool {
	if err := spiffeid.ValidatePathSegment(name); err != nil {
		hint := "letters, digits, dots, dashes and underscores"
		if strings.Contains(name, "*") {
			hint = "leave the key out for every service; by identity, principals take a *"
		}
		v.fail(CodeServiceName, hint, "%q is no name of a service", name)
		return false
	}
	if why := resource.Reserved(name); why != "" {
		v.fail(CodeServiceName, "", "%q cannot be a service: %s", name, why)
		return false
	}
	return true
}
