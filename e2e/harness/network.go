package harness

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Network is a network namespace of one test, where loopback loses what the test
// wants lost. Nothing outside of it is touched.
type Network struct{ t testing.TB }

// insideNetwork tells the test binary that it runs within the namespace.
const insideNetwork = "HARNESS_NETWORK_OF_ITS_OWN"

// NetworkOfItsOwn runs the test again in a network namespace of its own, and returns
// nil when that is over: the caller returns then. In there it returns the network.
func NetworkOfItsOwn(t *testing.T) *Network {
	t.Helper()
	if os.Getenv(insideNetwork) != "" {
		n := &Network{t}
		n.run("ip", "link", "set", "lo", "up")
		n.Heal()
		return n
	}
	self, err := os.Executable()
	must(t, err)
	deadline, ok := t.Deadline()
	if !ok {
		deadline = time.Now().Add(10 * time.Minute)
	}
	cmd := exec.CommandContext(t.Context(), self, "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout="+time.Until(deadline).Truncate(time.Second).String())
	cmd.Env = append(os.Environ(), insideNetwork+"=1", "CONTROLPLANE="+binary)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	t.Logf("in a network namespace of its own:\n%s", out)
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()+" ") {
		t.Errorf("it failed: %v", err)
	}
	return nil
}

// Lose loses so many of a hundred packets from and to a port.
func (n *Network) Lose(percent int, port string) {
	n.t.Helper()
	n.rules(fmt.Sprintf("tcp dport %s numgen random mod 100 < %d drop", port, percent), fmt.Sprintf("tcp sport %s numgen random mod 100 < %[2]d drop", port, percent))
}

// CutTo loses every packet to a port, and CutFrom every one from it.
func (n *Network) CutTo(port string) { n.t.Helper(); n.rules("tcp dport " + port + " drop") }

// CutFrom loses every packet from a port.
func (n *Network) CutFrom(port string) { n.t.Helper(); n.rules("tcp sport " + port + " drop") }

// Heal has nothing lost any more.
func (n *Network) Heal() { n.t.Helper(); n.run("nft", "flush", "ruleset") }

func (n *Network) rules(rules ...string) {
	n.t.Helper()
	n.run("nft", "add table inet fault")
	n.run("nft", "add chain inet fault in { type filter hook input priority 0; }")
	for _, r := range rules {
		n.run("nft", "add rule inet fault in "+r)
	}
}

func (n *Network) run(name string, args ...string) {
	n.t.Helper()
	if out, err := exec.CommandContext(n.t.Context(), name, args...).CombinedOutput(); err != nil {
		n.t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
}
