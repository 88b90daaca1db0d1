package deploy

import (
	"strings"
	"testing"

	"datapunk.dev/controlplane/e2e/machine"
)

// fileCatalog is a mesh file whose catalog is a file, so that no Consul is needed.
const fileCatalog = `mesh:
  name: mesh
  discovery: {method: file, file: /etc/controlplane/catalog.yaml}
`

// An operator installs the package, edits the mesh file, upgrades and removes it.
// The edit stays, the control plane that runs is the new one, and the certificate
// authority outlives even a purge.
func TestADebianPackageIsInstalledUpgradedAndRemoved(t *testing.T) {
	m := machine.NewNetwork(t).Machine("cp1", "10.0.0.5/24")
	first, next := packaged(t, version, "deb"), packaged(t, nextVersion, "deb")
	m.Put(first, "/root/first")
	m.Put(next, "/root/next")

	m.Run("dpkg -i /root/first/*.deb")
	contains(t, "controlplane version", m.Run("controlplane version"), version)
	if out := m.Run("controlplane validate -f /etc/controlplane/mesh.yaml 2>&1"); out != "the mesh file is valid\n" {
		t.Errorf("the mesh file of the package: %s", out)
	}
	contains(t, "the user", m.Run("getent passwd controlplane"), "/var/lib/controlplane")
	if out := m.Run("systemctl is-enabled controlplane || true; systemctl is-active controlplane || true"); out != "disabled\ninactive\n" {
		t.Errorf("an installation starts nothing: %s", out)
	}

	m.Write("/etc/controlplane/mesh.yaml", []byte(fileCatalog), 0o644)
	m.Write("/etc/controlplane/catalog.yaml", []byte("services: {}\n"), 0o644)
	m.Run("systemctl enable --now controlplane")
	ready := "curl -fsS http://127.0.0.1:19000/readyz"
	contains(t, "/readyz", m.Run(ready), `"ready":true`)
	root := m.Run("cat /var/lib/controlplane/ca.pem")
	pid := m.Run("systemctl show --property=MainPID controlplane")

	m.Run("dpkg -i /root/next/*.deb </dev/null")
	contains(t, "controlplane version", m.Run("controlplane version"), nextVersion)
	if m.Run("cat /etc/controlplane/mesh.yaml") != fileCatalog {
		t.Error("an upgrade changed the operator's mesh file")
	}
	if m.Run("systemctl show --property=MainPID controlplane") == pid {
		t.Error("the control plane that runs is still the one before the upgrade")
	}
	contains(t, "/readyz", m.Run(ready), `"ready":true`)
	if m.Run("cat /var/lib/controlplane/ca.pem") != root {
		t.Error("an upgrade changed the root of all certificates")
	}

	// As docs/deploy.md has it.
	m.Run("tar -C /var/lib -czf controlplane.tgz controlplane")
	m.Run("systemctl stop controlplane; rm -r /var/lib/controlplane; tar -C /var/lib -xzpf controlplane.tgz; chown -R controlplane: /var/lib/controlplane; systemctl start controlplane")
	contains(t, "/readyz", m.Run(ready), `"ready":true`)
	if m.Run("cat /var/lib/controlplane/ca.pem") != root {
		t.Error("the authority of a backup is another one")
	}

	m.Run("dpkg -r controlplane")
	if out := m.Run("find /usr/bin /usr/lib/systemd -name 'controlplane*'; systemctl is-active controlplane || true"); strings.Contains(out, "controlplane") || !strings.Contains(out, "inactive") {
		t.Errorf("after the removal: %s", out)
	}
	if m.Run("cat /etc/controlplane/mesh.yaml") != fileCatalog {
		t.Error("a removal took the operator's mesh file")
	}
	contains(t, "the purge", m.Run("dpkg -P controlplane 2>&1"), "the certificate authority stays in /var/lib/controlplane")
	if out := m.Run("ls /etc/controlplane; cat /var/lib/controlplane/ca.pem"); strings.Contains(out, "mesh.yaml") || !strings.Contains(out, root) {
		t.Errorf("after the purge: %s", out)
	}
}

// The rpm package does the same: what an operator has edited stays through an
// upgrade, and is set aside by a removal.
func TestAnRPMPackageIsInstalledUpgradedAndRemoved(t *testing.T) {
	m := machine.NewNetwork(t).Machine("cp1", "10.0.0.5/24")
	first, next := packaged(t, version, "rpm"), packaged(t, nextVersion, "rpm")
	m.Put(first, "/root/first")
	m.Put(next, "/root/next")

	// This machine is Debian, so rpm knows of none of its packages.
	m.Run("rpm --install --nodeps first/*.rpm")
	contains(t, "controlplane version", m.Run("controlplane version"), version)
	m.Write("/etc/controlplane/mesh.yaml", []byte(fileCatalog), 0o644)
	m.Write("/etc/controlplane/catalog.yaml", []byte("services: {}\n"), 0o644)
	m.Run("systemctl enable --now controlplane")
	pid := m.Run("systemctl show --property=MainPID controlplane")

	m.Run("rpm --upgrade --nodeps next/*.rpm")
	contains(t, "controlplane version", m.Run("controlplane version"), nextVersion)
	if m.Run("cat /etc/controlplane/mesh.yaml") != fileCatalog {
		t.Error("an upgrade changed the operator's mesh file")
	}
	if m.Run("systemctl show --property=MainPID controlplane") == pid {
		t.Error("the control plane that runs is still the one before the upgrade")
	}
	contains(t, "/readyz", m.Run("curl -fsS http://127.0.0.1:19000/readyz"), `"ready":true`)

	m.Run("rpm --erase controlplane")
	if out := m.Run("find /usr/bin /usr/lib/systemd -name 'controlplane*'; systemctl is-active controlplane || true"); out != "inactive\n" {
		t.Errorf("after the removal: %s", out)
	}
	if m.Run("cat /etc/controlplane/mesh.yaml.rpmsave") != fileCatalog {
		t.Error("a removal took the operator's mesh file")
	}
	m.Run("test -s /var/lib/controlplane/ca-key.pem")
}
