package wire

import (
	"testing"

	corepb "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	healthpb "github.com/envoyproxy/go-control-plane/envoy/service/health/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
)

// A report is read without the generated messages. Both must see the same in it.
func FuzzHealthMessage(f *testing.F) {
	for _, m := range []*healthpb.HealthCheckRequestOrEndpointHealthResponse{
		{RequestType: &healthpb.HealthCheckRequestOrEndpointHealthResponse_HealthCheckRequest{HealthCheckRequest: &healthpb.HealthCheckRequest{
			Node: &corepb.Node{Id: "lake-1", Cluster: "lake"},
		}}},
		{RequestType: &healthpb.HealthCheckRequestOrEndpointHealthResponse_EndpointHealthResponse{EndpointHealthResponse: &healthpb.EndpointHealthResponse{
			ClusterEndpointsHealth: []*healthpb.ClusterEndpointsHealth{{LocalityEndpointsHealth: []*healthpb.LocalityEndpointsHealth{{
				EndpointsHealth: []*healthpb.EndpointHealth{
					{HealthStatus: corepb.HealthStatus_TIMEOUT, HealthMetadata: &structpb.Struct{Fields: map[string]*structpb.Value{"http_status_code": structpb.NewNumberValue(503)}}},
					{HealthStatus: corepb.HealthStatus_HEALTHY},
				},
			}}}},
		}}},
	} {
		seed, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		got := new(HealthMessage)
		err := got.unmarshal(b)
		want := new(healthpb.HealthCheckRequestOrEndpointHealthResponse)
		if proto.Unmarshal(b, want) != nil || err != nil {
			return // strings that are not UTF-8, for one, are nothing to us, and our bounds nothing to it
		}
		var reported *healthpb.EndpointHealth
		for _, c := range want.GetEndpointHealthResponse().GetClusterEndpointsHealth() {
			for _, l := range c.GetLocalityEndpointsHealth() {
				if reported == nil && len(l.GetEndpointsHealth()) > 0 {
					reported = l.GetEndpointsHealth()[0]
				}
			}
		}
		// Both in one message is a message of nobody: one of them is the last that was set.
		if want.GetHealthCheckRequest() != nil && got.Reported || want.GetEndpointHealthResponse() != nil && got.Node != nil {
			return
		}
		if (reported != nil) != got.Reported {
			t.Fatalf("got %+v, want %v", got, want)
		}
		if reported != nil && reported.GetHealthStatus() != corepb.HealthStatus(got.Status) {
			t.Fatalf("got %+v, want %v", got, reported)
		}
		if code := reported.GetHealthMetadata().GetFields()["http_status_code"]; code != nil && code.GetNumberValue() == 503 && got.HTTPStatus != 503 {
			t.Fatalf("got %+v, want %v", got, reported)
		}
	})
}
