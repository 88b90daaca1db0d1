package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/golang-jwt/jwt/v5"

	"datapunk.dev/controlplane/e2e/harness"
	"datapunk.dev/controlplane/e2e/traffic"
)

// children returns the process ids of a process's children, of any of its threads.
func children(t *testing.T, pid int) []int {
	t.Helper()
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		t.Fatal(err)
	}
	var out []int
	for _, list := range lists {
		data, err := os.ReadFile(list)
		if err != nil {
			continue // the thread has ended
		}
		for _, field := range strings.Fields(string(data)) {
			n, err := strconv.Atoi(field)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, n)
		}
	}
	return out
}

// envoyOf returns the process id of a machine's Envoy.
func envoyOf(t *testing.T, c *harness.Machine) int {
	t.Helper()
	pids := children(t, c.Sidecar.Pid())
	if len(pids) != 1 {
		t.Fatalf("%s has the children %v, want one Envoy", c.ID, pids)
	}
	return pids[0]
}

// TestAMachineJoinsWithOneCommand: nothing is on the machine but the binary, an
// Envoy, a join token and the hash of the root.
func TestAMachineJoinsWithOneCommand(t *testing.T) {
	m := harness.Start(t, harness.Options{})
	m.Add(harness.Spec{Service: "nexus", ID: caller})
	c := m.Machine(harness.MachineSpec{Service: "lake_service", ID: "lake-1"})
	m.Ready()
	inRotation(t, m, "lake_service", "lake-1")

	t.Run("its app calls others", func(t *testing.T) {
		r, err := traffic.NewClient(c.Outbound()).Get(t.Context(), "nexus", "/")
		if err != nil || r.Status != 200 {
			t.Errorf("%s, %v", r, err)
		}
	})
	t.Run("nothing secret is on a command line", func(t *testing.T) {
		secret, err := os.ReadFile(filepath.Join(c.Dir, "join.token"))
		if err != nil {
			t.Fatal(err)
		}
		for _, pid := range []int{c.Sidecar.Pid(), envoyOf(t, c)} {
			for _, what := range []string{"cmdline", "environ"} {
				data, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, what))
				if err != nil {
					t.Fatal(err)
				}
				if strings.Contains(string(data), strings.TrimSpace(string(secret))) || strings.Contains(string(data), "Bearer") {
					t.Errorf("the %s of %d has a secret", what, pid)
				}
			}
		}
	})
	t.Run("the join token is used up", func(t *testing.T) {
		other := m.NewMachine(harness.MachineSpec{Service: "lake_service", ID: "lake-2", Join: append([]string{}, joinFlags(t, m, c)...)})
		if err := other.Start(); err != nil {
			t.Fatal(err)
		}
		select {
		case <-other.Sidecar.Done():
		case <-time.After(20 * time.Second):
			t.Fatal("it goes on")
		}
		if code := other.Sidecar.ExitCode(); code != 1 || !strings.Contains(other.Sidecar.Log.Tail(3), "no use left") {
			t.Errorf("exit code %d: %s", code, other.Sidecar.Log.Tail(3))
		}
	})
	t.Run("the list has its node", func(t *testing.T) {
		out := m.CLI("token", "join", "list", "--data-dir", m.Plane.Options().DataDir)
		if !strings.Contains(out.Stdout, "0 of 1") || !strings.Contains(out.Stdout, "lake_service-") {
			t.Errorf("%s%s", out.Stdout, out.Stderr)
		}
	})
	t.Run("it starts again as the same node, without its join token", func(t *testing.T) {
		before := m.Proxies()
		if err := os.Remove(filepath.Join(c.Dir, "join.token")); err != nil {
			t.Fatal(err)
		}
		if code, err := c.Leave(30 * time.Second); err != nil || code != 0 {
			t.Fatalf("exit code %d, %v", code, err)
		}
		ports := c.Ports
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		if err := c.WaitReady(t.Context()); err != nil {
			t.Fatal(err)
		}
		if fmt.Sprint(ports) != fmt.Sprint(c.Ports) {
			t.Errorf("its ports were %v and are %v", ports, c.Ports)
		}
		after := m.Proxies()
		for node := range before {
			if _, ok := after[node]; !ok {
				t.Errorf("node %s is not there any more: %v", node, after)
			}
		}
		inRotation(t, m, "lake_service", "lake-1")
	})
	t.Run("it starts while no control plane answers", func(t *testing.T) {
		if code, err := c.Leave(30 * time.Second); err != nil || code != 0 {
			t.Fatalf("exit code %d, %v", code, err)
		}
		m.Plane.Kill()
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		harness.Eventually(t, "its Envoy waits for a control plane", 20*time.Second, func() error {
			if pids := children(t, c.Sidecar.Pid()); len(pids) != 1 || !strings.Contains(c.Sidecar.Log.Tail(20), "that of the last time") {
				return fmt.Errorf("children %v", pids)
			}
			return nil
		})
		m.StartPlane()
		if err := c.WaitReady(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}

// joinFlags are those by which a machine joined.
func joinFlags(t *testing.T, m *harness.Mesh, c *harness.Machine) []string {
	t.Helper()
	ca, err := os.ReadFile(m.Plane.CAFile())
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, ca, 0o600); err != nil {
		t.Fatal(err)
	}
	return []string{"--join-token-file", filepath.Join(c.Dir, "join.token"), "--ca-file", file}
}

// TestTwoSidecarsOfOneMachineDoNotClash: neither is told a port.
func TestTwoSidecarsOfOneMachineDoNotClash(t *testing.T) {
	m := harness.Start(t, harness.Options{})
	a := m.Machine(harness.MachineSpec{Service: "lake_service", ID: "lake-1", ChosenPorts: true})
	b := m.Machine(harness.MachineSpec{Service: "nexus", ID: "nexus-1", ChosenPorts: true})
	for name, port := range a.Ports {
		if port == b.Ports[name] || port == 0 {
			t.Errorf("%s is %d of both", name, port)
		}
	}
	harness.Eventually(t, "one calls the other", 15*time.Second, func() error {
		r, err := traffic.NewClient(b.Outbound()).Get(t.Context(), "lake_service", "/")
		if err != nil || r.Status != 200 || r.Reply.Instance != "lake-1" {
			return fmt.Errorf("%s, %w", r, err)
		}
		return nil
	})
	for what, flags := range map[string][]string{
		"another sidecar has it":                   {"--mesh-port", strconv.Itoa(a.Ports["MESH_PORT"])},
		"another sidecar uses the state directory": {"--state-dir", a.StateDir},
	} {
		c := m.NewMachine(harness.MachineSpec{Service: "lake_service", ID: "clash-" + flags[0][2:4], ChosenPorts: true, Flags: flags})
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		select {
		case <-c.Sidecar.Done():
		case <-time.After(20 * time.Second):
			t.Fatalf("%v: it goes on", flags)
		}
		if code := c.Sidecar.ExitCode(); code != 1 || !strings.Contains(c.Sidecar.Log.Tail(3), what) {
			t.Errorf("%v: exit code %d, want %q: %s", flags, code, what, c.Sidecar.Log.Tail(3))
		}
	}
}

// TestWhatIsKilledIsStartedAgainAndLeavesNothing: an Envoy that is killed comes
// back by its sidecar, and one whose sidecar is killed ends with it.
func TestWhatIsKilledIsStartedAgainAndLeavesNothing(t *testing.T) {
	m := harness.Start(t, harness.Options{})
	m.Add(harness.Spec{Service: "nexus", ID: caller})
	c := m.Machine(harness.MachineSpec{Service: "lake_service", ID: "lake-1"})
	m.Ready()
	inRotation(t, m, "lake_service", "lake-1")

	first := envoyOf(t, c)
	if err := syscall.Kill(first, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, "another Envoy is ready", 10*time.Second, func() error {
		if pids := children(t, c.Sidecar.Pid()); len(pids) != 1 || pids[0] == first {
			return fmt.Errorf("children %v", pids)
		}
		return c.Envoy.Ready()
	})
	inRotation(t, m, "lake_service", "lake-1")

	second := envoyOf(t, c)
	c.Sidecar.Kill()
	harness.Eventually(t, "its Envoy has ended too", 5*time.Second, func() error {
		state, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", second))
		if err == nil && !strings.Contains(string(state), ") Z ") {
			return fmt.Errorf("%d lives", second)
		}
		return nil
	})
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	if err := c.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	inRotation(t, m, "lake_service", "lake-1")
}

// TestAMachineJoinsByItsNomadIdentity: offline, by Nomad's keys in a file, as the
// node that is named after its allocation.
func TestAMachineJoinsByItsNomadIdentity(t *testing.T) {
	dir := harness.Dir(t)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	jwks, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "k", Algorithm: "ES256", Use: "sig"}}})
	if err != nil {
		t.Fatal(err)
	}
	identity := func(namespace string) string {
		now := time.Now()
		token := jwt.NewWithClaims(jwt.SigningMethodES256, jwt.MapClaims{
			"aud": "controlplane", "iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(time.Hour).Unix(),
			"nomad_namespace": namespace, "nomad_service": "lake_service", "nomad_allocation_id": "af3f5a10-0000-4000-8000-000000000001",
		})
		token.Header["kid"] = "k"
		raw, err := token.SignedString(key)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, namespace+".jwt")
		if err := os.WriteFile(path, []byte(raw), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	if err := os.WriteFile(filepath.Join(dir, "jwks.json"), jwks, 0o600); err != nil {
		t.Fatal(err)
	}
	m := harness.Start(t, harness.Options{Flags: []string{"--join-nomad-jwks", filepath.Join(dir, "jwks.json")}})
	m.Add(harness.Spec{Service: "nexus", ID: caller})
	m.Machine(harness.MachineSpec{Service: "lake_service", ID: "lake-1", Join: []string{"--nomad-token-file", identity("default"), "--ca-file", m.Plane.CAFile()}})
	m.Ready()
	inRotation(t, m, "lake_service", "lake-1")
	if p := m.Proxies(); p["lake_service-af3f5a10-0000-4000-8000-000000000001"].Service != "lake_service" {
		t.Errorf("the proxies are %v", p)
	}
	refused := m.NewMachine(harness.MachineSpec{Service: "lake_service", ID: "lake-2", Join: []string{"--nomad-token-file", identity("dev"), "--ca-file", m.Plane.CAFile()}})
	if err := refused.Start(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-refused.Sidecar.Done():
	case <-time.After(20 * time.Second):
		t.Fatal("it goes on")
	}
	if log := refused.Sidecar.Log.Tail(3); refused.Sidecar.ExitCode() != 1 || !strings.Contains(log, `namespace \"dev\"`) && !strings.Contains(log, `namespace "dev"`) {
		t.Errorf("exit code %d: %s", refused.Sidecar.ExitCode(), log)
	}
}

// TestTheSidecarTellsSystemd: when its Envoy serves, that it lives, and that it
// ends (sd_notify(3)).
func TestTheSidecarTellsSystemd(t *testing.T) {
	path := filepath.Join(harness.Dir(t), "notify.sock")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close() //nolint:errcheck // a test's
	heard := make(chan string, 100)
	go func() {
		defer close(heard)
		data := make([]byte, 4096)
		for {
			n, err := socket.Read(data)
			if err != nil {
				return
			}
			heard <- string(data[:n])
		}
	}()
	m := harness.Start(t, harness.Options{})
	c := m.Machine(harness.MachineSpec{
		Service: "lake_service", ID: "lake-1", Env: []string{"NOTIFY_SOCKET=" + path, "WATCHDOG_USEC=300000"},
	})
	until := func(want string) {
		t.Helper()
		for deadline := time.After(10 * time.Second); ; {
			select {
			case got := <-heard:
				if got == want {
					return
				}
			case <-deadline:
				t.Fatalf("it was not told %s", want)
			}
		}
	}
	until("READY=1")
	if err := c.Envoy.Ready(); err != nil {
		t.Errorf("it says that it is ready: %v", err)
	}
	until("WATCHDOG=1")
	until("WATCHDOG=1")
	if code, err := c.Leave(leaveTime); err != nil || code != 0 {
		t.Errorf("exit code %d, %v", code, err)
	}
	until("STOPPING=1")
}
