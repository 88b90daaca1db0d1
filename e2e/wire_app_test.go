package e2e

import (
	"io"
	"net"
	"net/http"
	"strconv"
	"testing"

	"datapunk.dev/controlplane/e2e/harness"
	"datapunk.dev/controlplane/e2e/traffic"
)

// TestAnApplicationMayListenElsewhereThanAt127001: at ::1, as some runtimes do by
// themselves, or at the instance's own address.
func TestAnApplicationMayListenElsewhereThanAt127001(t *testing.T) {
	m := harness.Start(t, harness.Options{})
	nexus := m.Add(harness.Spec{Service: "nexus", ID: caller})
	for service, address := range map[string]string{"lake_service": "::1", "stream_service": "127.0.0.9"} {
		s := m.Add(harness.Spec{Service: service, ID: service + "-1", NoApp: true, Flags: []string{"--app-address", address}})
		answerAt(t, net.JoinHostPort(address, strconv.Itoa(s.AppPort)), func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "at "+address)
		})
		m.Ready()
		if r := raw(t, nexus, traffic.Request{Host: service}); r.Status != 200 || r.Body != "at "+address {
			t.Errorf("%s: %s", address, r)
		}
	}
}
