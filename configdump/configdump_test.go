package configdump

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"datapunk.dev/controlplane/admin/api"
)

const dump = `{"configs": [
  {"@type": "type.googleapis.com/envoy.admin.v3.BootstrapConfigDump", "bootstrap": {}},
  {"@type": "type.googleapis.com/envoy.admin.v3.ClustersConfigDump",
   "static_clusters": [{"cluster": {"name": "xds"}}],
   "dynamic_active_clusters": [{"version_info": "1", "cluster": {"@type": "c", "name": "lake", "circuit_breakers": {"thresholds": [{"max_requests": 7}]}}}],
   "dynamic_warming_clusters": [{"cluster": {"@type": "c", "name": "slow"}}]},
  {"@type": "type.googleapis.com/envoy.admin.v3.ListenersConfigDump",
   "dynamic_listeners": [
    {"name": "inbound", "active_state": {"listener": {"@type": "l", "name": "inbound"}}, "error_state": {"details": "the port is in use"}},
    {"name": "old", "active_state": {"listener": {"@type": "l", "name": "old"}}}]},
  {"@type": "type.googleapis.com/envoy.admin.v3.EndpointsConfigDump",
   "static_endpoint_configs": [],
   "dynamic_endpoint_configs": [{"endpoint_config": {"@type": "e", "cluster_name": "lake", "endpoints": [
    {"locality": {}, "lb_endpoints": [{"endpoint": {"address": {"socket_address": {"address": "10.0.0.1", "port_value": 80}}}, "health_status": "HEALTHY"}]}]}}]},
  {"@type": "type.googleapis.com/envoy.admin.v3.SecretsConfigDump",
   "dynamic_active_secrets": [{"name": "default", "secret": {"tls_certificate": {"private_key": {"inline_string": "[redacted]"}}}}]}
]}`

// What an Envoy has otherwise than it was sent is named, to the field.
func TestWhatAnEnvoyHasOtherwise(t *testing.T) {
	resource := func(kind, name, body string) api.Resource {
		return api.Resource{Type: kind, Name: name, Body: json.RawMessage(body)}
	}
	endpoint := func(address string) api.Resource {
		return resource("endpoint", "lake", fmt.Sprintf(`{"cluster_name": "lake", "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"socket_address": {"address": %q, "port_value": 80}}}}]}]}`, address))
	}
	same := []api.Resource{
		resource("cluster", "lake", `{"name": "lake", "circuit_breakers": {"thresholds": [{"max_requests": 7}]}}`),
		endpoint("10.0.0.1"),
		{Type: "secret", Name: "default", Certificate: &api.ResourceCertificate{Serial: "01"}},
		resource("runtime", "mesh", `{}`),
	}
	for _, c := range []struct {
		name string
		sent api.Resource
		want string
	}{
		{"a field", resource("cluster", "lake", `{"name": "lake", "circuit_breakers": {"thresholds": [{"max_requests": 8}]}}`), "cluster lake: it differs [circuit_breakers.thresholds[0].max_requests sent 8 has 7]"},
		{"a field more", resource("cluster", "lake", `{"name": "lake", "lb_policy": "RANDOM", "circuit_breakers": {"thresholds": [{"max_requests": 7}]}}`), `cluster lake: it differs [lb_policy sent "RANDOM" has ]`},
		{"warming", resource("cluster", "slow", `{"name": "slow"}`), "cluster slow: it is warming []"},
		{"refused", resource("listener", "inbound", `{"name": "inbound"}`), "listener inbound: it refuses it: the port is in use []"},
		{"missing", resource("route", "outbound/lake", `{"name": "outbound/lake"}`), "route outbound/lake: it is not there []"},
		{"an address", endpoint("10.0.0.2"), `endpoint lake: it differs [[0] sent "10.0.0.2:80" has "10.0.0.1:80"]`},
	} {
		sent := append([]api.Resource{c.sent}, same...)
		for i, r := range same {
			if r.Type == c.sent.Type && r.Name == c.sent.Name {
				sent = append(sent[:i+1:i+1], sent[i+2:]...)
			}
		}
		all, err := Compare(sent, []byte(dump))
		if err != nil {
			t.Fatal(err)
		}
		var got string
		for _, d := range all {
			if d.Type != c.sent.Type || d.Name != c.sent.Name {
				continue
			}
			var fields []string
			for _, f := range d.Fields {
				fields = append(fields, fmt.Sprintf("%s sent %s has %s", f.Path, f.Sent, f.Has))
			}
			got = fmt.Sprintf("%s %s: %s %v", d.Type, d.Name, d.What, fields)
		}
		if got != c.want {
			t.Errorf("%s: got %s, want %s", c.name, got, c.want)
		}
	}
	all, err := Compare(same, []byte(dump))
	if err != nil {
		t.Fatal(err)
	}
	var extra []string
	for _, d := range all {
		extra = append(extra, d.Type+" "+d.Name)
	}
	if got := strings.Join(extra, ", "); got != "cluster slow, listener inbound, listener old" {
		t.Errorf("what is not sent is %s", got)
	}
}

// What is no dump is said to be none, and not an Envoy that has nothing.
func TestWhatIsNoDump(t *testing.T) {
	for _, text := range []string{"", "OK", "{}", `{"configs": []}`} {
		if _, err := Compare(nil, []byte(text)); err == nil || !strings.Contains(err.Error(), "no config dump") {
			t.Errorf("%q: %v", text, err)
		}
	}
}
