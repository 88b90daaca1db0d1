package e2e

import (
	"fmt"
	"testing"
	"time"

	"datapunk.dev/controlplane/e2e/harness"
	"datapunk.dev/controlplane/e2e/traffic"
)

// TestEncodedSlashesReachAServiceThatWantsThem as they were written, and no
// other. That one does is the callee's affair: its callers' sidecars pass them.
func TestEncodedSlashesReachAServiceThatWantsThem(t *testing.T) {
	file := func(lake string) string {
		return `mesh:
  name: datapunk
  services: {lake: {` + lake + `}, pond: {}}
  security:
    authorization:
      policies:
        - {name: nexus, action: ALLOW, sources: [nexus], paths: ["/projects/*"]}
        - {name: no-admin, action: DENY, paths: ["/projects/admin/*"]}
`
	}
	m := harness.Start(t, harness.Options{Mesh: file("encoded_slashes: keep")})
	m.Add(harness.Spec{Service: "lake", ID: "lake-1"})
	m.Add(harness.Spec{Service: "pond", ID: "pond-1"})
	m.Add(harness.Spec{Service: "nexus", ID: caller, Unregistered: true})
	m.Ready()
	call := func(host, path string, want int) error {
		t.Helper()
		r, err := traffic.Raw(t.Context(), m.Sidecar(caller).Outbound(), traffic.Request{Host: host, Path: path})
		switch {
		case err != nil || r.Status != want:
			return fmt.Errorf("%s%s: %s, want %d: %w", host, path, r, want, err)
		case want == 200 && r.Reply.Path != path:
			return fmt.Errorf("%s%s: the application saw %s", host, path, r.Reply.Path)
		}
		return nil
	}
	for _, path := range []string{"/projects/group%2Fname", "/projects/group%2fname", "/projects/a%5Cb?x=%2F", "/projects/%2F"} {
		noError(t, call("lake", path, 200))
		noError(t, call("pond", path, 400))
	}
	for _, path := range []string{"/projects/\xff%2f", "/projects/%FF%2f", "/projects/é%5c"} {
		if err := call("pond", path, 400); err != nil {
			t.Error(err)
		}
	}
	for _, host := range []string{"lake", "pond"} {
		noError(t, call(host, "/projects/x?to=a%2Fb%5Cc", 200))
		noError(t, call(host, "/projects/x%20y", 200))
		noError(t, call(host, "/projects/admin/x", 403))
		noError(t, call(host, "/elsewhere%2Fx", 403))
	}
	// What the warning is about: to the policy this is not below /projects/admin/.
	noError(t, call("lake", "/projects/admin%2Fx", 200))

	before := listenerChanges(m, "lake-1")
	m.Edit(file("encoded_slashes: refuse"))
	harness.Eventually(t, "lake refuses them", 10*time.Second, func() error { return call("lake", "/projects/group%2Fname", 400) })
	if now := listenerChanges(m, "lake-1"); now != before {
		t.Error("a listener changed")
	}
}

// TestATCPConnectionIsCutAtItsAge busy or not, where the file says so.
func TestATCPConnectionIsCutAtItsAge(t *testing.T) {
	young, old := harness.Port(t), harness.Port(t)
	m := harness.Start(t, harness.Options{Mesh: fmt.Sprintf(`mesh:
  name: datapunk
  services:
    young: {protocol: tcp, timeout: {max_connection_duration: 2s}}
    old: {protocol: tcp, timeout: {max_connection_duration: 0s}}
    nexus: {upstreams: [{service: young, local_bind_port: %d}, {service: old, local_bind_port: %d}]}
  security: {authorization: {enabled: false}}
`, young, old)})
	for _, service := range []string{"young", "old"} {
		m.Add(harness.Spec{Service: service, ID: service + "-1", SpeaksTCP: true, Banner: banner})
	}
	m.Add(harness.Spec{Service: "nexus", ID: caller, Unregistered: true, Scoped: true})
	m.Ready()
	ctx := harness.Context(t, 30*time.Second)
	short, err := callBank(ctx, t, local(young))
	noError(t, err)
	long, err := callBank(ctx, t, local(old))
	noError(t, err)
	noError(t, short.echoes("at first"))
	harness.Eventually(t, "the young one is cut while it is busy", 10*time.Second, func() error {
		if err := short.echoes("still there"); err == nil {
			return fmt.Errorf("it is open")
		}
		return nil
	})
	noError(t, long.echoes("still there"))
}
