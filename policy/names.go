package policy

import (
	"slices"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// reserved are the names that no service may have, with the reason.
func reserved(name string) string {
	switch {
	case name == "control-plane":
		return "it is the control plane's own identity"
	case slices.Contains([]string{"local_app", "local_app_grpc", "tracing", "mesh_admin", "xds"}, name):
		return "each proxy has a cluster of that name"
	case strings.HasSuffix(strings.ToLower(name), ".mesh"):
		return "names that end in .mesh are the second names of services"
	}
	return ""
}

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
	if why := reserved(name); why != "" {
		v.fail(CodeServiceName, "", "%q cannot be a service: %s", name, why)
		return false
	}
	return true
}

func (v value) serviceName() (string, bool) {
	text, ok := v.filled()
	return text, ok && v.checkServiceName(text)
}
