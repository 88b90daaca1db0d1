package main

import (
	"strings"
	"testing"
	"time"

	"datapunk.dev/controlplane/admin/api"
)

// The list says of each proxy what became of it, and prints nothing that could move a
// terminal.
func TestTheListOfProxies(t *testing.T) {
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	var out strings.Builder
	err := printProxies(&out, api.Registrations{
		Enabled: true, Replica: "cp-1", Sweeper: true, Trouble: []string{"no leader"},
		Registrations: []api.Registration{
			{ID: "lake-1", Service: "lake", Address: "10.0.0.1", Port: 8080, MeshPort: "20000", State: "HELD", Owner: "cp-1", Since: now.Add(-90 * time.Second)},
			{ID: "evil\x1b[2J", Service: "lake", State: "NONE", Reason: "it refuses its listeners: see /api/v1/proxies"},
		},
	}, now)
	want := `replica cp-1, which looks after what others left
as it was last: no leader
PROXY      SERVICE  STATE  FOR    ADDRESS        MESH PORT  BY    WHY
lake-1     lake     HELD   1m30s  10.0.0.1:8080  20000      cp-1  ` + `
evil?[2J   lake     NONE   -      -              -          -     it refuses its listeners: see /api/v1/proxies
`
	if got := out.String(); err != nil || strings.Join(strings.Fields(got), " ") != strings.Join(strings.Fields(want), " ") {
		t.Errorf("%v\n%s\nwant\n%s", err, got, want)
	}
}
