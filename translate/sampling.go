package translate

import (
	"math"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"

	"datapunk.dev/controlplane/policy"
)

// sampling is the ratio of requests that begin a trace. It stands on the
// routes, where it wins over that of the listener which makes the spans: an
// edit of it drains nothing. (Tags could stand there too. Each route would
// carry all of them, and there are two for each service.)
type sampling struct {
	on   bool
	rate float64
}

func samplingOf(t policy.Tracing) sampling {
	if !t.Enabled {
		return sampling{}
	}
	return sampling{on: true, rate: t.SamplingRate}
}

// tracing is what a route says of it; nil if tracing is off.
func (s sampling) tracing() *routev3.Tracing {
	if !s.on {
		return nil
	}
	// Envoy draws a number below 10,000 and compares the numerator with that,
	// whatever the denominator says: of a million, 1 % would be everything.
	const parts = 10_000
	return &routev3.Tracing{RandomSampling: &typev3.FractionalPercent{
		Numerator: uint32(math.Round(s.rate * parts)), Denominator: typev3.FractionalPercent_TEN_THOUSAND,
	}}
}
