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
	actions := make(map[string][]*routev3.RouteAction) // by what their policies are, encoded
	var all []string                                   // those, as they come
	none := 0
	for _, r := range host.Routes {
		action := r.GetRoute()
		if action == nil { // it answers
			continue
		}
		says := ""
		if action.RetryPolicy == nil {
			none++
		} else if body, err := (proto.MarshalOptions{Deterministic: true}).Marshal(action.RetryPolicy); err == nil {
			says = string(body)
		} else {
			return // it is said when the routes are encoded
		}
		if actions[says] == nil {
			all = append(all, says)
		}
		actions[says] = append(actions[says], action)
	}
	const sizeOfNone = 2
	shared, most := "", 0
	for _, says := range all {
		if saved := (len(actions[says])-1)*len(says) - none*sizeOfNone; says != "" && saved > most {
			shared, most = says, saved
		}
	}
	if shared == "" {
		return
	}
	host.RetryPolicy = actions[shared][0].RetryPolicy
	for _, a := range actions[""] {
		a.RetryPolicy = &routev3.RetryPolicy{}
	}
	for _, a := range actions[shared] {
		a.RetryPolicy = nil
	}
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
