package resource

import "strings"

// Kind is the kind of client. What is different about its clients stands in
// [kinds], so that no other room has to ask which kind it is.
type Kind uint8

// The kinds of clients.
const (
	Sidecar   Kind = iota // an Envoy beside an application
	Proxyless             // gRPC's own xDS client, inside an application
)

// kinds says what is different about the clients of each kind.
var kinds = [...]struct {
	name  string
	agent string // what the user agents of its clients begin with

	namesAll     bool
	keepsOnNack  bool
	streamsOfOne bool
}{
	Sidecar: {name: "sidecar"},
	Proxyless: {
		name:         "proxyless",
		agent:        "gRPC ", // "gRPC Go", "grpc-java" calls itself "gRPC Java"
		namesAll:     true,
		keepsOnNack:  true,
		streamsOfOne: true,
	},
}

// KindOf returns the kind of a client by its user agent.
func KindOf(agent string) Kind {
	for k, kind := range kinds {
		if kind.agent != "" && strings.HasPrefix(agent, kind.agent) {
			return Kind(k)
		}
	}
	return Sidecar
}

// KindNamed returns the kind of a name that [Kind.String] returned.
func KindNamed(name string) (Kind, bool) {
	for k, kind := range kinds {
		if kind.name == name {
			return Kind(k), true
		}
	}
	return 0, false
}

// String returns the kind's name, as the status of a proxy has it.
func (k Kind) String() string { return kinds[k].name }

// NamesAll reports whether its clients always name what they want: a request
// without names wants nothing, where the protocol has it mean everything.
func (k Kind) NamesAll() bool { return kinds[k].namesAll }

// KeepsOnNack reports whether its clients keep all of a response but the
// resource that they reject. To send them less after a NACK would have them
// delete what they work with.
func (k Kind) KeepsOnNack() bool { return kinds[k].keepsOnNack }

// StreamsOfOne reports whether one process has several ADS streams: gRPC opens
// one for each service that it calls.
func (k Kind) StreamsOfOne() bool { return kinds[k].streamsOfOne }
