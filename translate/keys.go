package translate

import (
	"reflect"
	"slices"

	"datapunk.dev/controlplane/policy"
)

// settingKeys are the keys of the mesh file that the settings of a service
// came from, most specific first, each once.
func settingKeys(s *policy.Service, settings []string) []string {
	var keys []string
	for _, setting := range settings {
		for _, key := range s.Keys(setting) {
			if !slices.Contains(keys, key) {
				keys = append(keys, key)
			}
		}
	}
	return keys
}

// sameSettings reports whether two services have the same settings, from the
// same keys.
func sameSettings(a, b *policy.Service) bool {
	return a == b || reflect.DeepEqual(a, b)
}
