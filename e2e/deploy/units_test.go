package deploy

import (
	"regexp"
	"strconv"
	"strings"
	"testing"

	"datapunk.dev/controlplane/e2e/machine"
)

// systemd finds no fault with the units, and little that they could do beside
// their work: 0 is nothing, 10 is everything.
func TestTheUnitsAreValidAndHardened(t *testing.T) {
	m := machine.NewNetwork(t).Machine("cp1", "10.0.0.5/24")
	m.Put(packaged(t, version, "deb"), "/root")
	m.Run("dpkg -i *.deb")
	units := m.Run("dpkg -L controlplane | grep '/systemd/system/.*service$'")
	if n := len(strings.Fields(units)); n != 2 {
		t.Fatalf("the package has %d units: %s", n, units)
	}
	for unit := range strings.FieldsSeq(units) {
		unit = strings.Replace(unit, "@.", "@web.", 1)
		out, err := m.Try("systemd-analyze verify --man=no " + unit)
		must(t, err)
		if out.Code != 0 || out.Stdout+out.Stderr != "" {
			t.Errorf("systemd-analyze verify %s: exit code %d\n%s%s", unit, out.Code, out.Stdout, out.Stderr)
		}
		const most = 2.5
		table := m.Run("systemd-analyze security --no-pager --offline=yes " + unit)
		found := regexp.MustCompile(`Overall exposure level for .*: ([0-9.]+)`).FindStringSubmatch(table)
		if found == nil {
			t.Fatalf("systemd-analyze security %s: %s", unit, table)
		}
		if exposure, err := strconv.ParseFloat(found[1], 64); err != nil || exposure > most {
			t.Errorf("%s: exposure %s (%v), want at most %v:\n%s", unit, found[1], err, most, table)
		}
	}
}
