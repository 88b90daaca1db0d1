package translate

import (
	"reflect"

	"datapunk.dev/controlplane/policy"
)

// sameSettings reports whether two services have the same settings, from the
// same keys.
func sameSettings(a, b *policy.Service) bool {
	return a == b || reflect.DeepEqual(a, b)
}
