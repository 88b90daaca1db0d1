package translate

import (
	"iter"

	"datapunk.dev/controlplane/watch"
)

// Why an instance is no endpoint of its service.
const (
	leftInMaintenance = "it is in maintenance"
	leftWithoutWeight = "it has weight 0"
	leftOutside       = "it has no meta mesh_port, and mTLS is strict"
	leftUndialable    = "it has no address and port to dial"
	leftOtherSubset   = "it is not in the subset"
)

// dialed is the port at which an instance is called, or why it is not.
func dialed(g *globals, i *watch.Instance) (port uint16, left string) {
	// Somebody said that nothing new is to go there. What Envoy is told of as
	// draining it calls all the same once it doubts what it knows of health
	// (panic_threshold), so it is told nothing: what is under way goes on, and
	// the others are counted by themselves.
	switch {
	case i.Health == watch.Maintenance:
		return 0, leftInMaintenance
	case i.Weight == 0:
		return 0, leftWithoutWeight
	}
	port = i.Port
	switch {
	case i.MeshPort != 0:
		port = i.MeshPort
	case g.dial == tlsStrict:
		return 0, leftOutside
	}
	if port == 0 || i.Host == "" && !i.Address.IsValid() || i.Address.IsUnspecified() || i.Address.Zone() != "" {
		return 0, leftUndialable
	}
	return port, ""
}

// Dialed are the instances that the catalog has of a service, each with the port at
// which callers dial it for a subset, or for all instances if that is empty, or with
// why they do not.
func (s *Snapshot) Dialed(service, subset string) iter.Seq2[*watch.Instance, Dial] {
	return func(yield func(*watch.Instance, Dial) bool) {
		of, ok := s.state.services.Get(service)
		if !ok || of.entry == nil {
			return
		}
		in := func(*watch.Instance) bool { return subset == "" }
		if part := of.settings.Subset(subset); part != nil {
			in = inSubset(of.entry.Name, part)
		}
		for _, i := range of.entry.Instances {
			port, left := dialed(s.state.globals, i)
			if !in(i) {
				port, left = 0, leftOtherSubset
			}
			if !yield(i, Dial{Port: port, LeftOut: left}) {
				return
			}
		}
		for _, x := range of.entry.Excluded {
			if !yield(&watch.Instance{ID: x.ID}, Dial{LeftOut: x.Reason}) {
				return
			}
		}
	}
}

// Dial is the port at which an instance is called, or why it is not.
type Dial struct {
	Port    uint16
	LeftOut string
}
