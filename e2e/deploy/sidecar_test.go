package deploy

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"datapunk.dev/controlplane/e2e/machine"
	"datapunk.dev/controlplane/internal/tool"
)

// Both units run as they are shipped, behind all of their walls: the control
// plane is ready, a sidecar joins and its Envoy serves, under the filters of
// system calls; a call goes through two of them, on one machine; nobody but root
// can read what they keep; and a stop leaves the mesh before Envoy ends.
func TestTheUnitsRunAControlPlaneAndTwoSidecars(t *testing.T) {
	m := machine.NewNetwork(t).Machine("cp1", "10.0.0.5/24")
	envoy, err := tool.Find("envoy")
	if err != nil {
		t.Fatal(err)
	}
	m.Put(packaged(t, version, "deb"), "/root")
	m.Put(envoy, "/usr/local/bin")
	m.Run("dpkg -i *.deb")
	m.Write("/etc/controlplane/mesh.yaml", []byte(fileCatalog), 0o644)
	m.Write("/etc/controlplane/catalog.yaml", []byte(`services: {web: [{id: web-1, address: 10.0.0.5, port: 8080, meta: {mesh_port: "20443"}}]}`), 0o644)
	m.Run("systemctl start controlplane")

	m.Run(`systemd-run --quiet --unit=app /usr/bin/python3 -m http.server --bind 127.0.0.1 --directory /usr/share/controlplane 8080
		install -m 644 /var/lib/controlplane/ca.pem /etc/controlplane/ca.pem`)
	for service, more := range map[string]string{"web": "mesh-port: 20443", "caller": ""} {
		m.Write("/etc/controlplane/sidecar/"+service+".yaml", fmt.Appendf(nil,
			"service: %s\napp-port: 8080\nxds-address: [10.0.0.5:18000]\nca-file: /etc/controlplane/ca.pem\n%s\n", service, more), 0o644)
		m.Run(fmt.Sprintf(`runuser -u controlplane -- controlplane token join --data-dir /var/lib/controlplane --service %s \
			> /etc/credstore/controlplane-sidecar.%[1]s.join-token
			systemctl start controlplane-sidecar@%[1]s`, service))
	}
	ports := m.Run("cat /var/lib/controlplane-sidecar/caller/ports.env")
	outbound, _, _ := strings.Cut(strings.TrimPrefix(ports, "MESH_OUTBOUND="), "\n")
	must(t, tool.Until(t.Context(), "a call through both sidecars", effectTime, func() error {
		out, err := m.Try("curl -fsS -H 'Host: web' http://" + outbound + "/mesh.schema.json")
		if err == nil && !strings.Contains(out.Stdout, "$schema") {
			err = fmt.Errorf("%s%s", out.Stdout, out.Stderr)
		}
		return err
	}))

	status := m.Run("systemctl status --no-pager controlplane controlplane-sidecar@web")
	contains(t, "systemctl status", status, `Status: "serving"`)
	users := m.Run("ps -o uid= -p $(systemctl show --property=MainPID --value controlplane controlplane-sidecar@web controlplane-sidecar@caller | xargs | tr ' ' ,) | sort -u")
	if distinct := strings.Fields(users); len(distinct) != 3 || slices.Contains(distinct, "0") {
		t.Errorf("three units run as the users %v", distinct)
	}
	if seccomp := m.Run("grep -h ^Seccomp: /proc/$(pgrep -n envoy)/status"); !strings.Contains(seccomp, "2") {
		t.Errorf("Envoy runs without a filter of system calls: %s", seccomp)
	}
	for _, path := range []string{"/var/lib/controlplane/ca-key.pem", "/var/lib/controlplane-sidecar/web/token.yaml", "/etc/credstore/controlplane-sidecar.web.join-token", "/run/controlplane-sidecar/web/admin.sock"} {
		if out, err := m.Try("runuser -u nobody -- test -e " + path); err != nil || out.Code == 0 {
			t.Errorf("anybody can reach %s (%v)", path, err)
		}
	}

	// The join token has done its work, and is not needed again.
	m.Run("rm /etc/credstore/controlplane-sidecar.web.join-token; systemctl restart controlplane-sidecar@web")

	m.Run("systemctl reload controlplane; systemctl is-active controlplane")
	m.Run("systemctl stop controlplane-sidecar@web")
	if failed := m.Run("systemctl show --property=Result --value controlplane-sidecar@web"); failed != "success\n" {
		t.Errorf("the stop of a sidecar: %s\n%s", failed, m.Journal("controlplane-sidecar@web"))
	}
	for _, unit := range []string{"controlplane", "controlplane-sidecar@caller", "controlplane-sidecar@web"} {
		if log := m.Journal(unit); strings.Contains(log, "Operation not permitted") || strings.Contains(log, "Permission denied") {
			t.Errorf("%s was refused something:\n%s", unit, log)
		}
	}
}
