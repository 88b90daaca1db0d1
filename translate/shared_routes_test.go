package translate

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
)

// TestWhatRoutesShareChangesNoRequest: what a request meets is the same by the routes of
// the model one by one, and by those that are sent.
func TestWhatRoutesShareChangesNoRequest(t *testing.T) {
	for _, retry := range []string{
		"{}",
		"{attempts: 0}",
		"{conditions: [5xx]}",
		"{conditions: [retriable-4xx]}",
		"{conditions: [5xx, unavailable], methods: [GET, PUT]}",
		"{conditions: [connect-failure], status_codes: [503], methods: [GET]}",
		"{conditions: [5xx, connect-failure, refused-stream], methods: [GET, HEAD, OPTIONS, PUT, DELETE], timeout: 2s, attempts: 3}",
	} {
		for _, timeout := range []string{"{}", "{request: 3s}", "{stream_idle: 7s}", "{request: 15s, max_stream_duration: 1m}"} {
			for _, route := range []string{
				"",
				"timeout: {request: 2s}",
				"retry: {attempts: 1, conditions: [reset], methods: [PUT]}",
				"timeout: {request: 2s}, fault: {abort: {grpc_status: 14, percent: 100}}",
				"timeout: {request: 2s}, mirror: {service: a}",
				"direct_response: {status: 204}",
			} {
				if route != "" {
					route = ", " + route
				}
				s := parse(t, "mesh:\n  name: t\n  services: {a: {}, web: {retry: "+retry+", timeout: "+timeout+"}}\n"+
					"  routes:\n    - {name: r, service: web, match: [{path: {prefix: /r}}]"+route+"}\n"+
					"    - {name: post, service: web, match: [{path: {prefix: /p}, methods: [POST, GET]}]"+route+"}\n").Service("web")
				h := virtualHostOf(s, sampling{on: true, rate: 0.1})
				made, err := outboundConfiguration(h, nil)
				if err != nil {
					t.Fatal(err)
				}
				shared := decode(t, made, &routev3.RouteConfiguration{}).VirtualHosts[0]
				each := &routev3.VirtualHost{}
				var d builder
				for _, r := range h.routes {
					each.Routes = append(each.Routes, outboundRoute(&d, r))
				}
				for _, path := range []string{"/r/x", "/p", "/"} {
					for _, request := range requestsTo(path) {
						if want, got := meets(t, each, request), meets(t, shared, request); got != want {
							t.Fatalf("retry %s, timeout %s, route %s: %v meets\n%s, and by itself\n%s", retry, timeout, route, request, got, want)
						}
					}
				}
			}
		}
	}
}

func requestsTo(path string) (all []map[string]string) {
	for _, method := range []string{"GET", "DELETE", "PUT", "PATCH", "POST"} {
		for _, length := range []string{"", "7", "3000000"} {
			r := map[string]string{":path": path, ":method": method}
			if length != "" {
				r["content-length"] = length
			}
			all = append(all, r)
		}
	}
	return append(all, map[string]string{":path": path, ":method": "POST", "content-type": "application/grpc"})
}

// meets says what a host does with a request, as Envoy reads it.
func meets(t *testing.T, host *routev3.VirtualHost, request map[string]string) string {
	t.Helper()
	for _, r := range host.Routes {
		if !takes(t, r.Match, request) {
			continue
		}
		action := r.GetRoute()
		if action == nil {
			return fmt.Sprint(r.Action)
		}
		policy := action.RetryPolicy
		if policy == nil {
			policy = host.RetryPolicy
		}
		on := strings.FieldsFunc(policy.GetRetryOn(), func(c rune) bool { return c == ',' })
		for _, h := range r.RequestHeadersToAdd {
			if h.Header.Key == "x-envoy-retry-on" {
				on = append(on, strings.Split(h.Header.Value, ",")...)
			}
		}
		slices.Sort(on)
		if only := policy.GetRetriableRequestHeaders(); len(only) > 0 && !slices.ContainsFunc(only, func(h *routev3.HeaderMatcher) bool { return holds(t, h, request) }) {
			on = nil
		}
		how := ""
		if len(on) > 0 {
			of := proto.Clone(policy).(*routev3.RetryPolicy) //nolint:forcetypeassert // a clone is what it is of
			of.RetryOn, of.RetriableRequestHeaders = "", nil
			how = fmt.Sprint(on, of, r.RequestBodyBufferLimit)
		}
		deadline := fmt.Sprint(action.GetMaxStreamDuration().GetMaxStreamDuration())
		if request["content-type"] == "application/grpc" { // who else says when it has to be over
			deadline += fmt.Sprint(action.GetMaxStreamDuration().GetGrpcTimeoutHeaderMax())
		}
		timeout := action.Timeout
		if action.MaxStreamDuration != nil {
			timeout = durationpb.New(0) // Envoy takes no notice of it
		}
		return fmt.Sprint(action.GetCluster(), timeout, action.IdleTimeout, deadline, action.RequestMirrorPolicies, action.HedgePolicy, r.TypedPerFilterConfig, r.Tracing, r.Decorator, " ", how)
	}
	return "nothing"
}

func takes(t *testing.T, m *routev3.RouteMatch, request map[string]string) bool {
	t.Helper()
	below := m.GetPathSeparatedPrefix()
	return (below == "" || request[":path"] == below || strings.HasPrefix(request[":path"], below+"/")) &&
		(m.Grpc == nil || request["content-type"] == "application/grpc") &&
		!slices.ContainsFunc(m.Headers, func(h *routev3.HeaderMatcher) bool { return !holds(t, h, request) })
}

func holds(t *testing.T, h *routev3.HeaderMatcher, request map[string]string) bool {
	t.Helper()
	value, there := request[h.Name]
	var ok bool
	switch m := h.HeaderMatchSpecifier.(type) {
	case *routev3.HeaderMatcher_PresentMatch:
		ok = there == m.PresentMatch
	case *routev3.HeaderMatcher_RangeMatch:
		n, err := strconv.ParseInt(value, 10, 64)
		ok = err == nil && n >= m.RangeMatch.Start && n < m.RangeMatch.End
	case *routev3.HeaderMatcher_StringMatch:
		switch s := m.StringMatch.MatchPattern.(type) {
		case *matcherv3.StringMatcher_Exact:
			ok = value == s.Exact
		case *matcherv3.StringMatcher_SafeRegex:
			ok = regexp.MustCompile("^(?:" + s.SafeRegex.Regex + ")$").MatchString(value)
		default:
			t.Fatalf("%T is not known here", s)
		}
	default:
		t.Fatalf("%T is not known here", m)
	}
	return ok != h.InvertMatch
}

// TestARetryPolicyThatRoutesRepeatIsSentOnce, and no route comes to have it that has
// none.
func TestARetryPolicyThatRoutesRepeatIsSentOnce(t *testing.T) {
	s := parse(t, `mesh:
  name: t
  policies: {retry: {conditions: [5xx], methods: [GET, PUT]}}
  routes:
    - {name: a, service: web, match: [{path: {prefix: /a}}], timeout: {request: 3s}}
    - {name: b, service: web, match: [{path: {prefix: /b}}], retry: {attempts: 0}}
`).Service("web")
	made, err := outboundConfiguration(virtualHostOf(s, sampling{}), nil)
	if err != nil {
		t.Fatal(err)
	}
	host := decode(t, made, &routev3.RouteConfiguration{}).VirtualHosts[0]
	if host.RetryPolicy == nil {
		t.Error("the host has no retry policy")
	}
	var got []string
	for _, r := range host.Routes {
		name := r.Name
		if p := r.GetRoute().RetryPolicy; p != nil {
			name += ":" + p.RetryOn
		}
		got = append(got, name)
	}
	// Calls of gRPC are not tried again, and have times of their own.
	if got, want := strings.Join(got, " "), "a-grpc: a-unsized a a-once: b-grpc: b: web-grpc: web-unsized web web-once:"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
