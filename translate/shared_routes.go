package translate

import (
	"reflect"
	"slices"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/proto"

	"datapunk.dev/controlplane/policy"
)

// An edit of one route sends all routes of its service to each proxy, so what they
// repeat is said once.

// shareRetries has the host say the retry policy that its routes repeat most. A route
// without one would come to have it, so it says that it has none.
func shareRetries(host *routev3.VirtualHost) {
	actions := make([]*routev3.RouteAction, 0, len(host.Routes))
	none := 0
	for _, r := range host.Routes {
		action := r.GetRoute()
		switch {
		case action == nil: // it answers
		case action.RetryPolicy == nil:
			none++
			actions = append(actions, action)
		default:
			actions = append(actions, action)
		}
	}
	const sizeOfNone = 2
	var shared *routev3.RetryPolicy
	most := 0
	for _, a := range actions {
		if a.RetryPolicy == nil || proto.Equal(a.RetryPolicy, shared) {
			continue
		}
		others := -1
		for _, b := range actions {
			if proto.Equal(a.RetryPolicy, b.RetryPolicy) {
				others++
			}
		}
		if saved := others*proto.Size(a.RetryPolicy) - none*sizeOfNone; saved > most {
			shared, most = a.RetryPolicy, saved
		}
	}
	if shared == nil {
		return
	}
	for _, a := range actions {
		switch {
		case a.RetryPolicy == nil:
			a.RetryPolicy = &routev3.RetryPolicy{}
		case proto.Equal(a.RetryPolicy, shared):
			a.RetryPolicy = nil
		}
	}
	host.RetryPolicy = shared
}

// withoutTwins are the routes, but for those of gRPC that a later one stands for: one
// of the same requests that does the same, and behind which gRPC's calls come. A call
// of gRPC is a POST.
func withoutTwins(routes []route) []route {
	var kept []route
	stands := make(map[int]bool) // for its twin of gRPC
	for i, r := range routes {
		if r.match.grpc {
			if k := twinOf(routes, i); k > 0 {
				stands[k] = true
				continue
			}
		}
		if stands[i] {
			r.callerDeadline = true
		}
		kept = append(kept, r)
	}
	return kept
}

// twinOf is the place of the route that stands for one of gRPC; 0 if none does.
func twinOf(routes []route, i int) int {
	grpc := routes[i]
	if grpc.retry != nil || grpc.says != nil && abortsCalls(grpc.says.Fault) {
		return 0
	}
	for k := i + 1; k < len(routes); k++ {
		twin := routes[k]
		twin.name, twin.match.grpc, twin.callerDeadline, twin.keeps = grpc.name, true, grpc.callerDeadline, grpc.keeps
		if reflect.DeepEqual(twin, grpc) {
			if twin.timeout > 0 && twin.maxStream == 0 {
				return 0 // the caller's deadline would take the timeout of ordinary requests away, see maxStream
			}
			return k
		}
		if methods := routes[k].match.methods; len(methods) == 0 || slices.Contains(methods, "POST") {
			return 0 // it may take calls
		}
	}
	return 0
}

// abortsCalls reports whether a fault is of calls of gRPC alone.
func abortsCalls(f *policy.Fault) bool {
	return f != nil && f.Abort != nil && f.Abort.GRPCStatus != nil
}
