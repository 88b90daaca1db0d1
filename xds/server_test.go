package xds

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"datapunk.dev/controlplane/resource"

	corepb "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	typepb "github.com/envoyproxy/go-control-plane/envoy/type/v3"
)

func (c deltaClient) deltaNode(n *corepb.Node) {
	c.t.Helper()
	c.send(&discovery.DeltaDiscoveryRequest{Node: proto.CloneOf(n), TypeUrl: cds.URL()})
}

func TestNothingIsServedBeforeTheFirstSnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(testServer(), cluster("a", "1"))
		c := openDelta(t, w.server)
		c.subscribe(cds)
		if got := status.Code(c.end()); got != codes.Unavailable {
			t.Errorf("code %v", got)
		}
		w.publish()
		c = openDelta(t, w.server)
		c.subscribe(cds)
		c.expect("cluster a@1")
	})
}

// A proxy of a new profile is reported to whoever makes snapshots, and waits
// until there is a view for it.
func TestFleet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var fleets [][]resource.Profile
		s := testServer(func(o *Options) {
			o.OnFleet = func(f *resource.Fleet) {
				fleets = append(fleets, slices.Collect(f.Profiles()))
			}
		})
		publish(s)
		c := openDelta(t, s)
		c.node.Metadata = metadataOf(t, map[string]any{
			"app_port": 8080, "mesh_port": "20000", "outbound_port": 15001, "metrics_port": 70000,
			"address": "10.0.0.1", "zone": "a", "app_address": "::1",
		})
		c.subscribe(cds)
		c.silence("its view is not there")
		want := resource.Profile{
			Service: "nexus", Address: "10.0.0.1", Zone: "a", AppAddress: "::1", AppPort: 8080, MeshPort: 20000, OutboundPort: 15001,
		}
		if diff := cmp.Diff([][]resource.Profile{{want}}, fleets); diff != "" {
			t.Fatal(diff)
		}
		w := newWorld(s, cluster("a", "1"))
		w.profile = want
		w.publish()
		c.expect("cluster a@1")

		second := openDelta(t, s)
		second.node = proto.CloneOf(&corepb.Node{Id: "nexus-2", Cluster: "nexus", Metadata: metadataOf(t, map[string]any{
			"app_port": 8080, "mesh_port": 20000, "outbound_port": 15001, "address": "10.0.0.1", "zone": "a", "app_address": "0:0::1",
		})})
		second.subscribe(cds)
		second.expect("cluster a@1")
		if len(fleets) != 1 {
			t.Errorf("the same profile was reported again: %v", fleets)
		}
		c.close()
		second.close()
		time.Sleep(fleetInterval)
		synctest.Wait()
		if len(fleets) != 2 || len(fleets[1]) != 0 {
			t.Errorf("the fleet is %v after the last proxy left", fleets)
		}
	})
}

func TestOnlyTheStreamsOfAChangedViewWake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := testServer()
		nexus, lake := newWorld(s, cluster("a", "1")), newWorld(s, cluster("b", "1"))
		lake.be(resource.Profile{Service: "lake"})
		publish(s, nexus, lake)
		c, d := openDelta(t, s), openDelta(t, s)
		d.node.Id, d.node.Cluster = "lake-1", "lake"
		c.subscribe(cds)
		c.expect("cluster a@1")
		d.subscribe(cds)
		d.expect("cluster b@1")
		lake.put(cluster("b", "2")).publish()
		d.expect("cluster b@2")
		c.silence("its view stands")
	})
}

func TestTheNewestStreamOfANodeWins(t *testing.T) {
	protocolTest("the older is closed", t, func(t *testing.T, w *world) {
		c := connected(t, w)
		d := connected(t, w)
		if got := status.Code(c.end()); got != codes.Aborted {
			t.Errorf("code %v", got)
		}
		w.put(cluster("a", "2")).publish()
		d.expect("cluster a@2")
		if n := testutil.ToFloat64(w.server.metrics.superseded); n != 1 {
			t.Errorf("%v superseded", n)
		}
		if got := len(w.server.Proxies()); got != 1 {
			t.Errorf("%d proxies", got)
		}
	})
	protocolTest("the streams of gRPC's own client are no rivals", t, func(t *testing.T, w *world) {
		w.profile.Kind = resource.Proxyless
		w.publish()
		app := func(name, want string) sotwClient {
			c := openSotw(t, w.server)
			c.node = &corepb.Node{Id: "app-1", Cluster: "nexus", UserAgentName: "gRPC Go"}
			c.subscribe(cds, name)
			c.expect(want)
			return c
		}
		a, b := app("a", "cluster a@1"), app("b", "cluster b@1")
		w.put(cluster("a", "2"), cluster("b", "2")).publish()
		a.expect("cluster a@2")
		if p := w.server.Proxies(); len(p) != 1 || p[0].Types["cluster"].State != Pending {
			t.Errorf("one of its streams lacks its cluster: %+v", p)
		}
		b.expect("cluster b@2")
		if p := w.server.Proxies(); len(p) != 1 || p[0].Types["cluster"].State != Synced {
			t.Errorf("%+v", p)
		}
		// Nor is an Envoy of that node.id one of them.
		c := openDelta(t, w.server)
		c.node = &corepb.Node{Id: "app-1", Cluster: "nexus"}
		c.subscribe(cds)
		if got := status.Code(b.end()); got != codes.Aborted {
			t.Errorf("code %v", got)
		}
	})
	protocolTest("separate services are no rivals", t, func(t *testing.T, w *world) {
		c := deltaClient{open(t, w.server, delta, cds.URL())}
		c.subscribe(cds)
		c.expect("cluster a@1 b@1")
		d := deltaClient{open(t, w.server, delta, eds.URL())}
		d.subscribe(eds, "a")
		d.expect("endpoint a@1")
		w.put(cluster("a", "2")).publish()
		c.expect("cluster a@2")
		p := w.server.Proxies()
		if len(p) != 1 || p[0].Types["cluster"].State != Synced || p[0].Types["endpoint"].State != Synced {
			t.Errorf("%+v", p)
		}
	})
}

func TestDrain(t *testing.T) {
	protocolTest("ends streams and refuses new ones", t, func(t *testing.T, w *world) {
		c := connected(t, w)
		w.server.Drain()
		if got := status.Code(c.end()); got != codes.Unavailable {
			t.Errorf("code %v", got)
		}
		c = openDelta(t, w.server)
		if got := status.Code(c.end()); got != codes.Unavailable {
			t.Errorf("code %v", got)
		}
	})
}

func TestASlowReaderIsResetAndHoldsUpNobody(t *testing.T) {
	transports[0].run(t, func(t *testing.T, w *world) {
		slow := openDelta(t, w.server)
		slow.node.Id = "slow"
		slow.subscribe(eds, "a")
		slow.expect("endpoint a@1")
		slow.out = nil // its reads stop: a send blocks for ever
		good := openDelta(t, w.server)
		good.subscribe(eds, "a")
		good.expect("endpoint a@1")
		for i := range 3 {
			w.put(endpoint("a", fmt.Sprint("x", i))).publish()
			good.expect(fmt.Sprint("endpoint a@x", i))
		}
		time.Sleep(20*time.Second + 50*time.Millisecond) // for the first, of some 100 bytes
		if got := status.Code(slow.end()); got != codes.ResourceExhausted {
			t.Errorf("code %v", got)
		}
	})
}

func TestAClientThatSaysNothingIsEnded(t *testing.T) {
	protocolTest("", t, func(t *testing.T, w *world) {
		c := openDelta(t, w.server)
		time.Sleep(30 * time.Second)
		if got := status.Code(c.end()); got != codes.DeadlineExceeded {
			t.Errorf("code %v", got)
		}
	})
}

func TestAPanicEndsOneStream(t *testing.T) {
	protocolTest("", t, func(t *testing.T, w *world) {
		w.server.options.Locate = func([]string) string { panic("a bug") }
		c := openDelta(t, w.server)
		c.subscribe(eds, "a")
		c.nack(c.peek("endpoint a@1"), "no")
		if got := status.Code(c.end()); got != codes.Internal {
			t.Errorf("code %v", got)
		}
		w.server.options.Locate = nil
		c = openDelta(t, w.server)
		c.subscribe(eds, "a")
		c.expect("endpoint a@1")
	})
}

func TestStatus(t *testing.T) {
	protocolTest("", t, func(t *testing.T, w *world) {
		c := openDelta(t, w.server)
		c.node.UserAgentName = "envoy"
		c.node.UserAgentVersionType = &corepb.Node_UserAgentBuildVersion{UserAgentBuildVersion: &corepb.BuildVersion{
			Version: &typepb.SemanticVersion{MajorNumber: 1, MinorNumber: 40},
		}}
		c.subscribe(cds)
		m := c.peek("cluster a@1 b@1")
		states := func() string {
			p := w.server.Proxies()[0]
			var s []string
			for _, typ := range [...]resource.Type{resource.Cluster, resource.Endpoint, resource.Secret, resource.Listener, resource.Route} {
				s = append(s, string(p.Types[typ.String()].State))
			}
			return strings.Join(s, " ")
		}
		if got, want := states(), "PENDING NOT_SENT NOT_SENT NOT_SENT NOT_SENT"; got != want {
			t.Errorf("states %s, want %s", got, want)
		}
		c.ack(m)
		c.subscribe(eds, "a")
		c.nack(c.peek("endpoint a@1"), "no")
		if got, want := states(), "SYNCED REJECTED NOT_SENT NOT_SENT NOT_SENT"; got != want {
			t.Errorf("states %s, want %s", got, want)
		}
		p := w.server.Proxies()[0]
		if p.Types["cluster"].Sent != m.SystemVersionInfo || p.Types["cluster"].Acknowledged != m.SystemVersionInfo {
			t.Errorf("versions %+v, want %s", p.Types["cluster"], m.SystemVersionInfo)
		}
		if p.Agent != "envoy" || p.Version != "1.40.0" || p.Protocol != "delta" {
			t.Errorf("%+v", p)
		}
		p.Profile.MeshPort = 20000
		b, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{
			`"node":"nexus-1"`, `"service":"nexus"`, `"kind":"sidecar"`, `"mesh_port":20000`,
			`"cluster":{"state":"SYNCED","version_sent":"` + m.SystemVersionInfo + `","version_acknowledged":"`,
			`"endpoint":{"state":"REJECTED"`, `"last_nack":{"time":"`, `"resource":"a"`,
		} {
			if !strings.Contains(string(b), want) {
				t.Errorf("no %s in %s", want, b)
			}
		}
	})
}

func TestMetricsAreClean(t *testing.T) {
	reg := prometheus.NewRegistry()
	s := testServer(func(o *Options) { o.Metrics = reg })
	s.metrics.refused.WithLabelValues("unavailable").Inc()
	s.metrics.streams.WithLabelValues("delta").Inc()
	problems, err := testutil.GatherAndLint(reg)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}
