package policy

// Service returns the effective settings of a service, whether or not the file names it.
func (m *Mesh) Service(name string) *Service { return nil }

// Names returns the services that the file names, sorted.
func (m *Mesh) Names() []string { return nil }

// Source returns the place of a key, or of its nearest ancestor that is written.
func (m *Mesh) Source(key string) Source { return Source{} }

// Keys returns the keys that a setting of the service came from, most specific first.
func (s *Service) Keys(setting string) []string { return nil }
