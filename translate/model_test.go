package translate

import (
	"testing"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

	"datapunk.dev/controlplane/policy"
)

// What the model says is equal stays the same resource, whichever settings it
// came from; what differs in it differs on the wire.
func TestTheModelIsWhatResourcesAreMadeOf(t *testing.T) {
	a, b := &policy.Service{Name: "web", Protocol: policy.HTTP}, &policy.Service{Name: "web", Protocol: policy.HTTP}
	b.Retry = policy.Retry{Attempts: 2, Conditions: []string{"5xx"}}
	if destinationsOf(a)[0] != destinationsOf(b)[0] {
		t.Error("other retries make another cluster")
	}
	if virtualHostOf(a, sampling{}).equal(virtualHostOf(b, sampling{})) {
		t.Error("other retries make the same virtual host")
	}
	b.Retry, b.CircuitBreakers.MaxRequests = a.Retry, 7
	if destinationsOf(a)[0] == destinationsOf(b)[0] {
		t.Error("another circuit breaker makes the same cluster")
	}
	if !virtualHostOf(a, sampling{}).equal(virtualHostOf(b, sampling{})) {
		t.Error("another circuit breaker makes another virtual host")
	}
	if virtualHostOf(&policy.Service{Name: "db", Protocol: policy.TCP}, sampling{}) != nil {
		t.Error("a service of TCP has a virtual host")
	}
}

// A route may lead to several clusters, each with its share.
func TestARouteSplitsItsRequests(t *testing.T) {
	h := virtualHostOf(&policy.Service{Name: "web", Protocol: policy.HTTP}, sampling{})
	for i := range h.routes {
		h.routes[i].to = []weightedDestination{leadTo("web", "canary", policy.Fail, 5), leadTo("web", "", policy.Fail, 95)}
	}
	if got := h.refs(); len(got) != 2 || got[0].Name != "web|canary" || got[1].Name != "web" {
		t.Errorf("it needs %v", got)
	}
	made, err := outboundConfiguration(h, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range decode(t, made, &routev3.RouteConfiguration{}).VirtualHosts[0].Routes {
		split := r.GetRoute().GetWeightedClusters().GetClusters()
		if len(split) != 2 || split[0].Name != "web|canary" || split[0].Weight.Value != 5 || split[1].Weight.Value != 95 {
			t.Errorf("%s leads to %v", r.Name, split)
		}
	}
}
