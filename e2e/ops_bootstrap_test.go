package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v4"

	"datapunk.dev/controlplane/e2e/harness"
	"datapunk.dev/controlplane/e2e/traffic"
	"datapunk.dev/controlplane/internal/tool"
)

func TestEnvoyAcceptsEveryBootstrapThatWePrint(t *testing.T) {
	m := harness.Start(t, harness.Options{})
	s := m.Prepare(harness.Spec{Service: "lake_service", ID: "lake-1", NoApp: true}) // for its token
	secure := []string{"--ca-file", m.Plane.CAFile(), "--token-file", s.TokenFile}
	plain := []string{"--xds-plaintext"}
	for _, c := range []struct {
		name  string
		trust []string
		flags []string
		wants []string // what the bootstrap must have
	}{
		{"plaintext", plain, []string{"--xds-address", "127.0.0.1:18000"}, []string{"port_value: 18000"}},
		{"TLS", secure, []string{"--xds-address", "127.0.0.1:18000"}, []string{"TLSv1_3", "spiffe://datapunk/control-plane", s.TokenFile}},
		{"several addresses", secure, []string{"--xds-address", "10.0.0.1:18000", "--xds-address", "10.0.0.2:18001,10.0.0.3:18002"}, []string{"10.0.0.1", "10.0.0.2", "10.0.0.3", "18002"}},
		{"a name", secure, []string{"--xds-address", "controlplane.example:18000"}, []string{"STRICT_DNS"}},
		{"names and addresses", secure, []string{"--xds-address", "one.example:18000", "--xds-address", "10.0.0.2:18000"}, []string{"one.example", "10.0.0.2"}},
		{"IPv6", secure, []string{"--xds-address", "[::1]:18000"}, []string{"::1"}},
		{"Unix socket, plaintext", plain, []string{"--xds-address", "unix:/run/mesh/xds.sock"}, []string{"path: /run/mesh/xds.sock"}},
		{"Unix socket, TLS", secure, []string{"--xds-address", "unix:/run/mesh/xds.sock"}, []string{"path: /run/mesh/xds.sock", "TLSv1_3"}},
		{"zone", secure, []string{"--xds-address", "127.0.0.1:18000", "--zone", "eu-west-1a"}, []string{"zone: eu-west-1a"}},
		{"a whole place", secure, []string{"--xds-address", "127.0.0.1:18000", "--region", "eu-west-1", "--zone", "eu-west-1a", "--sub-zone", "rack-7"}, []string{"region: eu-west-1", "sub_zone: rack-7", "local_cluster_name: mesh_zone"}},
		{"version", secure, []string{"--xds-address", "127.0.0.1:18000", "--version", "1.2.3"}, []string{"1.2.3"}},
		{"version like a number", secure, []string{"--xds-address", "127.0.0.1:18000", "--version", "1.10"}, []string{"'1.10'"}},
		{"address", secure, []string{"--xds-address", "127.0.0.1:18000", "--address", "10.1.2.3"}, []string{"10.1.2.3"}},
		{"IPv6 address", plain, []string{"--xds-address", "127.0.0.1:18000", "--address", "::1"}, []string{"::1"}},
		{"ports", plain, []string{"--xds-address", "127.0.0.1:18000", "--outbound-port", "15999", "--metrics-port", "9999"}, []string{"15999", "9999"}},
		{"a node id that needs quotes", plain, []string{"--xds-address", "127.0.0.1:18000", "--node-id", `lake: "1" # \ é`, "--admin", s.Socket}, nil},
		{"all of it", secure, []string{"--xds-address", "10.0.0.1:18000", "--xds-address", "two.example:18000", "--zone", "a", "--version", "2", "--address", "127.0.0.1", "--admin", s.Socket}, []string{s.Socket}},
	} {
		t.Run(c.name, func(t *testing.T) {
			args := append([]string{"bootstrap", "--service", "lake_service", "--node-id", "lake-1", "--app-port", "8080", "--mesh-port", "20000"}, c.trust...)
			out := m.CLI(append(args, c.flags...)...)
			if out.Code != 0 || out.Stderr != "" {
				t.Fatalf("exit code %d: %s", out.Code, out.Stderr)
			}
			for _, want := range c.wants {
				if !strings.Contains(out.Stdout, want) {
					t.Errorf("no %q in\n%s", want, out.Stdout)
				}
			}
			if err := tool.EnvoyAccepts(t.Context(), []byte(out.Stdout)); err != nil {
				t.Error(err)
			}
			// It is our bootstrap that Envoy reads, and not nothing.
			if err := tool.EnvoyAccepts(t.Context(), []byte(out.Stdout+"nonsense: 1\n")); err == nil || !strings.Contains(err.Error(), "nonsense") {
				t.Errorf("a bootstrap with a key that Envoy does not know: %v", err)
			}
		})
	}
}

func TestEnvoyIsServedOverAUnixSocket(t *testing.T) {
	socket := filepath.Join(harness.Dir(t), "xds.sock")
	m := harness.Start(t, harness.Options{XDSAddress: "unix:" + socket})
	m.Add(harness.Spec{Service: "lake_service", ID: "lake-1"})
	m.Ready()
	if r := m.Call("lake-1", "lake_service", "/"); r.Status != 200 || r.Reply.Headers["x-forwarded-client-cert"] == "" {
		t.Errorf("got %s, %v", r, r.Reply.Headers)
	}
	info, err := os.Stat(socket)
	if err != nil {
		t.Fatal(err)
	}
	if mode := info.Mode().Perm(); mode != 0o600 {
		t.Errorf("the socket's mode is %o: others may connect", mode)
	}
}

func TestEnvoyWithTwoControlPlanesToChooseFromFindsTheOneThatIsThere(t *testing.T) {
	m := harness.Start(t, harness.Options{})
	m.Add(harness.Spec{Service: "lake_service", ID: "lake-1", Flags: []string{"--xds-address", fmt.Sprintf("127.0.0.1:%d", harness.Port(t))}})
	m.Ready()
	if r := m.Call("lake-1", "lake_service", "/"); r.Status != 200 {
		t.Errorf("got %s", r)
	}
}

// ownBootstrap is what an operator might have written himself: an id, a
// cluster, the way to the control plane, and a listener of his own whose
// routes come from there. Nothing in it says which ports the control plane is
// to open.
func ownBootstrap(apiType string) func(*harness.Sidecar, string) string {
	return func(s *harness.Sidecar, printed string) string {
		var b map[string]any
		if err := yaml.Unmarshal([]byte(printed), &b); err != nil {
			panic(err)
		}
		b["node"] = map[string]any{"id": s.ID, "cluster": s.Service}
		b["dynamic_resources"].(map[string]any)["ads_config"].(map[string]any)["api_type"] = apiType
		b["static_resources"].(map[string]any)["listeners"] = []any{map[string]any{
			"name":    "own",
			"address": map[string]any{"socket_address": map[string]any{"address": "127.0.0.1", "port_value": s.OutboundPort}},
			"filter_chains": []any{map[string]any{"filters": []any{map[string]any{
				"name": "envoy.filters.network.http_connection_manager",
				"typed_config": map[string]any{
					"@type":       "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
					"stat_prefix": "own",
					"rds": map[string]any{
						"route_config_name": "outbound/lake_service",
						"config_source":     map[string]any{"ads": map[string]any{}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"},
					},
					"http_filters": []any{map[string]any{
						"name":         "envoy.filters.http.router",
						"typed_config": map[string]any{"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
					}},
				},
			}}}},
		}}
		out, err := yaml.Marshal(b)
		if err != nil {
			panic(err)
		}
		return string(out)
	}
}

func TestEnvoyWithABootstrapOfItsOwnIsServedAllThatNeedsNoMetadata(t *testing.T) {
	for _, c := range []struct{ protocol, apiType string }{{"delta", "DELTA_GRPC"}, {"sotw", "GRPC"}} {
		t.Run(c.protocol, func(t *testing.T) {
			m := harness.Start(t, harness.Options{})
			m.Add(harness.Spec{Service: "lake_service", ID: "lake-1"})
			nexus := m.Prepare(harness.Spec{Service: "nexus", ID: "nexus-1", Bootstrap: ownBootstrap(c.apiType)})
			m.Launch(nexus)
			if err := nexus.Envoy.WaitReady(t.Context(), 10*time.Second); err != nil {
				t.Fatal(err)
			}
			harness.Eventually(t, "it is synced", 10*time.Second, func() error {
				p, ok := m.Proxies()["nexus-1"]
				if !ok {
					return fmt.Errorf("not connected")
				}
				for _, typ := range []string{"cluster", "endpoint", "route", "secret"} {
					if p.Types[typ].State != "SYNCED" {
						return fmt.Errorf("%s is %s", typ, p.Types[typ].State)
					}
				}
				return nil
			})

			// Clusters, endpoints, routes and certificates are there, and they work.
			r := traffic.Load{Addr: nexus.Outbound(), Request: traffic.Request{Host: "lake_service"}, Requests: 50}.Do(t.Context())
			if r.Failed() != 0 || r.Instances["lake-1"] != 50 {
				t.Errorf("%s", r)
			}
			call := m.Call("nexus-1", "lake_service", "/")
			if xfcc := call.Reply.Headers["x-forwarded-client-cert"]; !strings.Contains(xfcc, "URI=spiffe://datapunk/nexus") {
				t.Errorf("x-forwarded-client-cert is %q", xfcc)
			}

			p := m.Proxies()["nexus-1"]
			if p.Protocol != c.protocol || p.Service != "nexus" {
				t.Errorf("%s of %s speaks %s", p.Node, p.Service, p.Protocol)
			}
			for _, want := range []string{
				"outbound_port: no outbound listener", "metrics_port: no metrics listener",
				"app_port: no inbound listener", "mesh_port: no inbound listener",
			} {
				if !slices.Contains(p.Missing, want) {
					t.Errorf("/api/v1/proxies says that it misses %q, and not %q", p.Missing, want)
				}
			}
			if missing := m.Proxies()["lake-1"].Missing; len(missing) != 0 {
				t.Errorf("lake-1, which has everything, misses %q", missing)
			}
		})
	}
}
