package e2e

import (
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"datapunk.dev/controlplane/e2e/app"
	"datapunk.dev/controlplane/e2e/harness"
	"datapunk.dev/controlplane/e2e/run"
)

// becomes waits until every caller's Envoy has what the catalog says of the instance
// at a mesh port, and returns how long that took.
func becomes(t *testing.T, m *harness.Mesh, service string, meshPort int, health string, callers ...string) time.Duration {
	t.Helper()
	began := time.Now()
	harness.Eventually(t, fmt.Sprintf("%s at %d is %s to %v", service, meshPort, health, callers), 40*time.Second, func() error {
		for _, id := range callers {
			clusters, err := m.Sidecar(id).Envoy.Clusters()
			if err != nil {
				return err
			}
			got := "not there"
			for _, h := range clusters[service].Hosts {
				if h.Address.Socket.Port == meshPort {
					got = h.Health.EDS
				}
			}
			if got != health {
				return fmt.Errorf("to %s it is %s", id, got)
			}
		}
		return nil
	})
	return time.Since(began)
}

// statusInConsul is what Consul's checks of an instance amount to.
func statusInConsul(t *testing.T, m *harness.Mesh, service, id string) string {
	t.Helper()
	entries, err := inConsul(m, service)
	if err != nil {
		t.Fatal(err)
	}
	if entries[id] == nil {
		return "not there"
	}
	return entries[id].Checks.AggregatedStatus()
}

// fault is what may become of an application.
type fault struct {
	what          string
	happen, ended func(t *testing.T, a *app.App)
}

// faults are those after which it is to be called by nobody.
var faults = []fault{
	{"it dies", func(_ *testing.T, a *app.App) { a.Die() }, func(t *testing.T, a *app.App) {
		if err := a.Revive(); err != nil {
			t.Fatal(err)
		}
	}},
	{"it hangs", func(_ *testing.T, a *app.App) { a.Behave(app.Behavior{Hang: true}) }, behaves},
	{"it answers 500", func(_ *testing.T, a *app.App) {
		a.Behave(app.Behavior{FailRate: 1, FailStatus: http.StatusInternalServerError})
	}, behaves},
}

func behaves(_ *testing.T, a *app.App) { a.Behave(app.Behavior{}) }

// suffer has an application meet each fault, and logs how long that took to reach the
// last caller, and its end.
func suffer(t *testing.T, m *harness.Mesh, service, id string, a *app.App, meshPort int, faults []fault, callers ...string) {
	t.Helper()
	for _, f := range faults {
		t.Run(f.what, func(t *testing.T) {
			f.happen(t, a)
			out := becomes(t, m, service, meshPort, "UNHEALTHY", callers...)
			if got := statusInConsul(t, m, service, id); got != "critical" {
				t.Errorf("Consul calls it %s", got)
			}
			f.ended(t, a)
			back := becomes(t, m, service, meshPort, "HEALTHY", callers...)
			t.Logf("%s: out of the last of %d endpoint lists after %s, back in it after %s", f.what, len(callers), out.Round(10*time.Millisecond), back.Round(10*time.Millisecond))
			if got := statusInConsul(t, m, service, id); got != "passing" {
				t.Errorf("Consul calls it %s", got)
			}
		})
	}
}

const checkEachSecond = "interval: 1s, timeout: 500ms, unhealthy_threshold: 2, healthy_threshold: 1"

// TestAnApplicationsHealth: what becomes of an application, from the event to the last
// caller's endpoint list, with checks by its Envoy each second. The log has the figures.
func TestAnApplicationsHealth(t *testing.T) {
	t.Parallel() // it waits, most of the time
	m := harness.Start(t, harness.Options{
		Consul: true, Registers: true,
		Overlay: "mesh: {services: {lake_service: {health_check: {http: /health, " + checkEachSecond + "}}}}",
	})
	callers := []string{caller, "nexus-2", "nexus-3"}
	for _, id := range callers {
		m.Add(harness.Spec{Service: "nexus", ID: id})
	}
	m.Add(harness.Spec{Service: "lake_service", ID: "lake-1"})
	lake := m.Add(harness.Spec{Service: "lake_service", ID: "lake-2"})
	// A bootstrap of before has no HDS: its instance is passing while its stream lives.
	old := m.Add(harness.Spec{Service: "lake_service", ID: "lake-old", Bootstrap: withoutChecks, Flags: []string{"--version", "old"}})
	m.Ready()
	for _, s := range []*harness.Sidecar{m.Sidecar("lake-1"), lake, old} {
		becomes(t, m, s.Service, s.MeshPort, "HEALTHY", callers...)
	}
	old.App.Behave(app.Behavior{FailRate: 1, FailStatus: http.StatusInternalServerError})
	suffer(t, m, "lake_service", lake.ID, lake.App, lake.MeshPort, faults, callers...)
	if got := statusInConsul(t, m, "lake_service", "lake-old"); got != "passing" || old.App.Count() > 0 {
		t.Errorf("that with a bootstrap of before is %s, and was asked %d times", got, old.App.Count())
	}
	if got := statusInConsul(t, m, "lake_service", "lake-1"); got != "passing" {
		t.Errorf("the other one is %s", got)
	}

	t.Run("it answers 429", func(t *testing.T) {
		lake.App.Behave(app.Behavior{FailRate: 1, FailStatus: http.StatusTooManyRequests})
		harness.Eventually(t, "Consul warns of it", 15*time.Second, func() error {
			if got := statusInConsul(t, m, "lake_service", "lake-2"); got != "warning" {
				return fmt.Errorf("it is %s", got)
			}
			return nil
		})
		becomes(t, m, lake.Service, lake.MeshPort, "HEALTHY", callers...) // there is a word for it, and it is called
		behaves(t, lake.App)
	})
	t.Run("an edit asks for another check", func(t *testing.T) {
		m.Edit("mesh: {services: {lake_service: {health_check: {tcp: true, " + checkEachSecond + "}}}}")
		tcp := []fault{faults[0]}
		lake.App.Behave(app.Behavior{FailRate: 1, FailStatus: http.StatusInternalServerError})
		time.Sleep(4 * time.Second) // that a connection can be made is enough
		if got := statusInConsul(t, m, "lake_service", "lake-2"); got != "passing" {
			t.Errorf("a check by TCP calls it %s", got)
		}
		behaves(t, lake.App)
		suffer(t, m, "lake_service", lake.ID, lake.App, lake.MeshPort, tcp, callers...)
	})
	t.Run("an edit ends the check", func(t *testing.T) {
		lake.App.Die()
		becomes(t, m, lake.Service, lake.MeshPort, "UNHEALTHY", callers...)
		m.Edit("mesh: {}")
		becomes(t, m, lake.Service, lake.MeshPort, "HEALTHY", callers...)
		entries, err := inConsul(m, "lake_service")
		if err != nil {
			t.Fatal(err)
		}
		for _, check := range entries["lake-2"].Checks {
			if check.CheckID == "lake-2:app" {
				t.Errorf("its check is still there: %+v", check)
			}
		}
		faults[0].ended(t, lake.App)
	})
}

// withoutChecks takes out of a bootstrap what it says of checks of its application.
func withoutChecks(_ *harness.Sidecar, printed string) string {
	printed = strings.Replace(printed, "checks: http,tcp", "was: before", 1)
	return regexp.MustCompile(`(?m)^hds_config:\n( .*\n)+`).ReplaceAllString(printed, "")
}

// TestAnApplicationsHealthByGRPC: Envoy's HDS cannot make such a check. The sidecar
// does.
func TestAnApplicationsHealthByGRPC(t *testing.T) {
	t.Parallel() // it waits, most of the time
	m := harness.Start(t, harness.Options{
		Consul: true, Registers: true,
		Overlay: "mesh: {services: {grpc_lake: {protocol: grpc, health_check: {grpc: true, " + checkEachSecond + "}}}}",
	})
	callers := []string{caller, "nexus-2", "nexus-3"}
	for _, id := range callers {
		m.Add(harness.Spec{Service: "nexus", ID: id})
	}
	lake := m.Machine(harness.MachineSpec{Service: "grpc_lake", ID: "grpc-lake-1", Flags: []string{"--node-id", "grpc-lake-1"}})
	// Nobody stands beside this one who could make the check.
	plain := m.Add(harness.Spec{Service: "grpc_lake", ID: "grpc-lake-2"})
	m.Ready()
	becomes(t, m, "grpc_lake", lake.Ports["MESH_PORT"], "HEALTHY", callers...)
	becomes(t, m, "grpc_lake", plain.MeshPort, "HEALTHY", callers...)
	suffer(t, m, "grpc_lake", lake.ID, lake.App, lake.Ports["MESH_PORT"], faults, callers...)

	t.Run("the control plane starts anew", func(t *testing.T) {
		seen := watchConsul(t, m, "grpc_lake")
		if err := m.Plane.Stop(); err != nil {
			t.Fatal(err)
		}
		lake.App.Die()
		m.StartPlane()
		becomes(t, m, "grpc_lake", lake.Ports["MESH_PORT"], "UNHEALTHY", callers...)
		faults[0].ended(t, lake.App)
		becomes(t, m, "grpc_lake", lake.Ports["MESH_PORT"], "HEALTHY", callers...)
		if got := seen(); slices.ContainsFunc(got, func(s string) bool { return strings.HasPrefix(s, plain.ID) && !strings.HasSuffix(s, "passing") }) {
			t.Errorf("Consul had %q", got)
		}
	})
}

// watchConsul looks at a service over and over, and returns every state of an
// instance that there was.
func watchConsul(t *testing.T, m *harness.Mesh, service string) (end func() []string) {
	t.Helper()
	seen := make(map[string]bool)
	known := make(map[string]bool)
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			if entries, err := inConsul(m, service); err == nil {
				for id, e := range entries {
					known[id] = true
					seen[id+" "+e.Checks.AggregatedStatus()] = true
				}
				for id := range known {
					if entries[id] == nil {
						seen[id+" absent"] = true
					}
				}
			} else {
				seen["error "+err.Error()] = true
			}
			select {
			case <-stop:
				return
			case <-time.After(10 * time.Millisecond):
			}
		}
	}()
	return func() []string {
		close(stop)
		<-done
		return slices.Sorted(maps.Keys(seen))
	}
}

// TestAReplicaThatDiesChangesNoHealth: Envoy's stream for checks is at either replica,
// and goes to the other when that is killed. Nobody is called critical for it, and what
// happens afterwards is told as before.
func TestAReplicaThatDiesChangesNoHealth(t *testing.T) {
	t.Parallel() // it waits, most of the time
	address := "127.0.0.1:" + strconv.Itoa(harness.Port(t))
	m := harness.Start(t, harness.Options{
		Consul: true, Registers: true,
		Overlay: "mesh: {services: {lake_service: {health_check: {http: /health, " + checkEachSecond + "}}}}",
	})
	copied := filepath.Join(m.Dir, "copy")
	noError(t, os.CopyFS(copied, os.DirFS(filepath.Dir(m.Plane.CAFile()))))
	noError(t, os.Chmod(copied, 0o700))
	for _, key := range []string{"ca-key.pem", "token-key.pem"} {
		noError(t, os.Chmod(filepath.Join(copied, key), 0o600))
	}
	o := m.Plane.Options()
	o.Name, o.XDSAddress, o.Admin, o.DataDir = "second", address, "127.0.0.1:"+strconv.Itoa(harness.Port(t)), copied
	second, err := run.StartControlPlane(o)
	noError(t, err)
	t.Cleanup(func() { noError(t, second.Stop()) })
	noError(t, second.WaitReady(t.Context(), 20*time.Second))
	flags := []string{"--xds-address", address}
	callers := []string{caller}
	m.Add(harness.Spec{Service: "nexus", ID: caller, Flags: flags})
	lakes := make(map[string]*harness.Sidecar)
	for n := range 4 {
		s := m.Add(harness.Spec{Service: "lake_service", ID: fmt.Sprintf("lake-%d", n+1), Flags: flags})
		lakes[s.ID] = s
	}
	healthy := func() {
		t.Helper()
		for _, s := range lakes {
			becomes(t, m, s.Service, s.MeshPort, "HEALTHY", callers...)
		}
	}
	healthy()
	seen := watchConsul(t, m, "lake_service")
	m.Plane.Kill()
	noError(t, second.WaitSynced(t.Context(), 30*time.Second, "nexus-1", "lake-1", "lake-2", "lake-3", "lake-4"))
	time.Sleep(5 * time.Second) // what comes of it comes with the first reports
	healthy()
	if got, want := seen(), []string{"lake-1 passing", "lake-2 passing", "lake-3 passing", "lake-4 passing"}; !slices.Equal(got, want) {
		t.Errorf("Consul had %q", got)
	}
	for _, s := range lakes {
		s.App.Die()
		took := becomes(t, m, s.Service, s.MeshPort, "UNHEALTHY", callers...)
		faults[0].ended(t, s.App)
		becomes(t, m, s.Service, s.MeshPort, "HEALTHY", callers...)
		t.Logf("%s, at the second replica: out after %s", s.ID, took.Round(10*time.Millisecond))
	}
}

// TestAnApplicationsHealthBesideAFile: there is no Consul to write it into.
func TestAnApplicationsHealthBesideAFile(t *testing.T) {
	t.Parallel() // it waits, most of the time
	m := harness.Start(t, harness.Options{
		Registers: true,
		Overlay:   "mesh: {discovery: {register: true}, services: {lake_service: {health_check: {http: /health, " + checkEachSecond + "}}}}",
	})
	m.Add(harness.Spec{Service: "nexus", ID: caller})
	m.Add(harness.Spec{Service: "lake_service", ID: "lake-1"})
	lake := m.Add(harness.Spec{Service: "lake_service", ID: "lake-2"})
	m.Ready()
	becomes(t, m, lake.Service, lake.MeshPort, "HEALTHY", caller)
	for _, f := range faults {
		f.happen(t, lake.App)
		becomes(t, m, lake.Service, lake.MeshPort, "UNHEALTHY", caller)
		f.ended(t, lake.App)
		becomes(t, m, lake.Service, lake.MeshPort, "HEALTHY", caller)
	}
}
