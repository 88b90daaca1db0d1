package policy

import "reflect"

// Equal reports whether two services have the same settings, wherever they
// came from.
func (s *Service) Equal(o *Service) bool {
	if s == nil || o == nil {
		return s == o
	}
	a, b := *s, *o
	a.keys, b.keys = [numSettings][]string{}, [numSettings][]string{}
	return reflect.DeepEqual(a, b)
}
