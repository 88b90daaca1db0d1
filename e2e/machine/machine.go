// Package machine gives tests machines that are installed, started and called
// as those of operators are: systemd is the first process of each, packages are
// installed on it, it has a network of its own with others, and nothing of it is
// left when the test ends.
//
// A machine has the files of this one, and keeps what it changes of them in
// memory: so it is of the kind that the tests run on, Debian with systemd.
package machine

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"datapunk.dev/controlplane/internal/tool"
)

//go:embed boot.sh
var boot string

// bootTime is how long systemd may take to be up.
const bootTime = time.Minute

// Network is what machines are connected to: a bridge in a network namespace of
// its own, which reaches nothing else.
type Network struct {
	t    testing.TB
	dir  string
	hold *tool.Process // has the namespace
	n    int
}

// NewNetwork makes a network. It ends with the test.
func NewNetwork(t testing.TB) *Network {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("machines need namespaces, and so root")
	}
	n := &Network{t: t, dir: t.TempDir()}
	n.hold = start(t, tool.Command{Name: "network", Path: "unshare", Args: []string{"--net", "sleep", "infinity"}})
	n.ip("link add br0 type bridge")
	n.ip("link set br0 up")
	return n
}

// ip runs ip(8) in the network. The process may not have its namespace yet.
func (n *Network) ip(args string) {
	n.t.Helper()
	own, err := os.Readlink("/proc/self/ns/net")
	must(n.t, err)
	must(n.t, tool.Until(n.t.Context(), "the network's namespace", bootTime, func() error {
		if ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", n.hold.Pid())); err != nil || ns == own {
			return fmt.Errorf("%s, %w", ns, err)
		}
		return nil
	}))
	run(n.t, append([]string{"nsenter", "--net", "--target", strconv.Itoa(n.hold.Pid()), "ip"}, strings.Fields(args)...)...)
}

// Machine is a running machine.
type Machine struct {
	Name string

	t    testing.TB
	init int // its first process, as seen from here
}

// Machine starts a machine with an address of the network, such as 10.0.0.5/24,
// and waits until systemd is up.
func (n *Network) Machine(name, address string) *Machine {
	n.t.Helper()
	m := n.Boot(name, address)
	m.Up()
	return m
}

// Boot starts a machine and does not wait for it: several start side by side.
func (n *Network) Boot(name, address string) *Machine {
	t := n.t
	t.Helper()
	m := &Machine{Name: name, t: t}
	base := filepath.Join(n.dir, name)
	must(t, os.Mkdir(base, 0o755))
	group := cgroup(t, name)
	console := filepath.Join(n.dir, name+".console")
	must(t, os.WriteFile(console, nil, 0o600))
	// Into its cgroup first: the namespace begins there.
	enter := `echo $$ >"$1/cgroup.procs" && shift && exec unshare --mount --pid --fork --net --uts --ipc --cgroup --kill-child "$@"`
	p := start(t, tool.Command{Name: name, Path: "sh", Args: []string{"-c", enter, "sh", group, "sh", "-c", boot, "boot", base, name, console, tool.Root()}})
	t.Cleanup(func() {
		if t.Failed() {
			text, _ := os.ReadFile(console)
			t.Logf("console of %s:\n%s%s", name, p.Log, text)
		}
	})
	must(t, p.Until(t.Context(), name+" has a first process", bootTime, func() error { return m.find(p.Pid()) }))
	n.n++
	outside := fmt.Sprintf("m%d", n.n)
	n.ip(fmt.Sprintf("link add %s type veth peer name eth0 netns %d", outside, m.init))
	n.ip("link set " + outside + " master br0 up")
	run(t, m.enter("--net", "sh", "-ec", "ip link set lo up; ip address add "+address+" dev eth0; ip link set eth0 up")...)
	return m
}

// find looks for the child of unshare, once it is systemd.
func (m *Machine) find(unshare int) error {
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", unshare))
	if err != nil {
		return err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(children)))
	if err != nil {
		return fmt.Errorf("no child: %w", err)
	}
	name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil {
		return err
	}
	if strings.TrimSpace(string(name)) != "systemd" {
		return fmt.Errorf("its first process is %s", name)
	}
	m.init = pid
	return nil
}

// Up waits until systemd has started what a machine starts with.
func (m *Machine) Up() {
	m.t.Helper()
	must(m.t, tool.Until(m.t.Context(), m.Name+" is up", bootTime, func() error {
		out, err := m.Try("systemctl is-active basic.target")
		if err == nil && out.Code != 0 {
			err = errors.New(out.Stdout + out.Stderr)
		}
		return err
	}))
}

func (m *Machine) enter(args ...string) []string {
	return append([]string{"nsenter", "--target", strconv.Itoa(m.init)}, args...)
}

// Try runs a script as root of the machine, as a person does who is logged in.
func (m *Machine) Try(script string) (tool.Output, error) {
	command := m.enter("--mount", "--pid", "--net", "--uts", "--ipc", "--cgroup",
		"env", "-i", "HOME=/root", "TERM=dumb", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"bash", "-euo", "pipefail", "-c", "cd /root\n"+script)
	ctx, cancel := context.WithTimeout(m.t.Context(), 2*time.Minute)
	defer cancel()
	return tool.Exec(ctx, command[0], nil, command[1:]...)
}

// Run is Try for what must succeed. It returns what was printed.
func (m *Machine) Run(script string) string {
	m.t.Helper()
	out, err := m.Try(script)
	must(m.t, err)
	if out.Code != 0 {
		journal, _ := m.Try("journalctl --no-pager --output=cat --lines=60")
		m.t.Fatalf("on %s: %s\nexit code %d\n%s%s\nits journal:\n%s", m.Name, script, out.Code, out.Stdout, out.Stderr, journal.Stdout)
	}
	return out.Stdout
}

// Journal is what a unit of the machine has logged.
func (m *Machine) Journal(unit string) string {
	m.t.Helper()
	return m.Run("journalctl --no-pager --output=cat --unit='" + unit + "'")
}

// Put gives the machine a copy of a file of this one, in a directory.
func (m *Machine) Put(file, dir string) {
	m.t.Helper()
	data, err := os.ReadFile(file)
	must(m.t, err)
	info, err := os.Stat(file)
	must(m.t, err)
	m.Write(filepath.Join(dir, filepath.Base(file)), data, info.Mode())
}

// Write writes a file of the machine.
func (m *Machine) Write(path string, data []byte, mode fs.FileMode) {
	m.t.Helper()
	// Its root, as the kernel shows it from outside.
	outside := filepath.Join(fmt.Sprintf("/proc/%d/root", m.init), path)
	must(m.t, os.MkdirAll(filepath.Dir(outside), 0o755))
	must(m.t, os.WriteFile(outside, data, mode))
}

// cgroup makes the control group that a machine has for its own.
func cgroup(t testing.TB, name string) string {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mounts")
	must(t, err)
	for line := range strings.Lines(string(mounts)) {
		f := strings.Fields(line)
		if len(f) < 3 || f[2] != "cgroup2" {
			continue
		}
		dir, err := os.MkdirTemp(f[1], "machine-"+name+"-")
		must(t, err)
		t.Cleanup(func() { must(t, removeGroup(dir)) })
		return dir
	}
	t.Fatal("no cgroup2 file system is mounted: machines need one")
	return ""
}

// removeGroup removes a control group and those in it, once their processes have
// ended.
func removeGroup(dir string) error {
	return tool.Until(context.Background(), "the processes of "+dir+" end", bootTime, func() error {
		var last error
		var remove func(string)
		remove = func(dir string) {
			entries, err := os.ReadDir(dir)
			if err != nil {
				return
			}
			for _, e := range entries {
				if e.IsDir() {
					remove(filepath.Join(dir, e.Name()))
				}
			}
			if err := os.Remove(dir); err != nil {
				last = err
			}
		}
		remove(dir)
		return last
	})
}

// start starts a process that ends with the test.
func start(t testing.TB, c tool.Command) *tool.Process {
	t.Helper()
	path, err := tool.Find(c.Path)
	must(t, err)
	c.Path = path
	p, err := tool.Start(c)
	must(t, err)
	t.Cleanup(p.Kill)
	return p
}

func run(t testing.TB, command ...string) {
	t.Helper()
	out, err := tool.Exec(t.Context(), command[0], nil, command[1:]...)
	must(t, err)
	if out.Code != 0 {
		t.Fatalf("%s: exit code %d\n%s%s", strings.Join(command, " "), out.Code, out.Stdout, out.Stderr)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
