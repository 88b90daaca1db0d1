package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"datapunk.dev/controlplane/e2e/harness"
	"datapunk.dev/controlplane/internal/tool"
)

// block is commands of a page, and the machine that they are for: "" is the clone.
type block struct{ machine, text string }

// blocks are the ```sh blocks of a page, in their order.
func blocks(t *testing.T, page string) []block {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(tool.Root(), "docs", page))
	if err != nil {
		t.Fatal(err)
	}
	var all []block
	for _, found := range regexp.MustCompile("(?ms)^```sh ?([a-z]*)\n(.*?)^```$").FindAllStringSubmatch(string(data), -1) {
		all = append(all, block{found[1], found[2]})
	}
	return all
}

// vm is a machine of the page: a shell that goes on from block to block, with a
// network, a /root, /srv, /var/lib and /usr/local/bin of its own.
type vm struct {
	name, dir string
	in        io.Writer
	out       *bufio.Reader
}

// startVM makes a network namespace on the bridge, and a shell in it.
func startVM(t *testing.T, name, bridge, address, dir string) *vm {
	t.Helper()
	ns := bridge + "-" + name
	sh(t, "ip netns add %s", ns)
	t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", ns).Run() })
	sh(t, "ip link add %s%.1s type veth peer name eth0 netns %s", bridge, name, ns)
	sh(t, "ip link set %s%.1s master %s up", bridge, name, bridge)
	sh(t, "ip -n %s addr add %s/24 dev eth0", ns, address)
	sh(t, "ip -n %s link set eth0 up", ns)
	sh(t, "ip -n %s link set lo up", ns)
	h := &vm{name: name, dir: filepath.Join(dir, name)}
	binds := ""
	for _, d := range []string{"/root", "/srv", "/var/lib", "/usr/local/bin"} {
		own := filepath.Join(h.dir, d)
		if err := os.MkdirAll(own, 0o700); err != nil {
			t.Fatal(err)
		}
		binds += fmt.Sprintf("mount --bind %s %s\n", own, d)
	}
	cmd := exec.Command("ip", "netns", "exec", ns, "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "--noprofile", "--norc")
	cmd.Env = append(os.Environ(), "HOME=/root")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL); _ = cmd.Wait() })
	h.in, h.out = in, bufio.NewReader(out)
	h.run(t, binds+"cd /root\n")
	return h
}

// run has the shell run commands, each of which must succeed.
func (h *vm) run(t *testing.T, commands string) {
	t.Helper()
	type result struct {
		text string
		err  error
	}
	done := make(chan result, 1)
	// One that fails ends the shell, and with it the pipe.
	if _, err := io.WriteString(h.in, "set -e\n"+commands+"\nset +e\necho block-has-ended\n"); err != nil {
		t.Fatalf("%s: %v", h.name, err)
	}
	go func() {
		var text strings.Builder
		for {
			line, err := h.out.ReadString('\n')
			if strings.TrimSpace(line) == "block-has-ended" || err != nil {
				done <- result{text.String(), err}
				return
			}
			text.WriteString(line)
		}
	}()
	select {
	case r := <-done:
		if r.err != nil {
			t.Fatalf("%s: a command failed:\n%s\n%s", h.name, commands, r.text)
		}
		t.Logf("%s\n%s%s", h.name, commands, r.text)
	case <-time.After(40 * time.Second):
		t.Fatalf("%s: not within 40 s:\n%s", h.name, commands)
	}
}

func sh(t *testing.T, format string, args ...any) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	command := fmt.Sprintf(format, args...)
	if out, err := exec.CommandContext(ctx, "bash", "-ec", command).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", command, err, out)
	}
}

// TestTheStartPage does what docs/start.md says, word for word, on three machines.
func TestTheStartPage(t *testing.T) {
	dir := harness.Dir(t)
	bridge := fmt.Sprintf("m%d", os.Getpid()%100000)
	sh(t, "ip link add %s type bridge && ip link set %s up", bridge, bridge)
	t.Cleanup(func() { _ = exec.Command("ip", "link", "del", bridge).Run() })
	// scp is between directories here, and tools are where they were installed.
	bin := filepath.Join(dir, "bin")
	if err := os.MkdirAll(bin, 0o700); err != nil {
		t.Fatal(err)
	}
	script := "#!/bin/bash\nset -e\nto=${!#}; path=${to#*:}\ncase $to in 10.99.0.1:*) to=control ;; 10.99.0.2:*) to=lake ;; 10.99.0.3:*) to=web ;; *) exit 1 ;; esac\ncp \"${@:1:$#-1}\" " + dir + "/$to$path\n"
	if err := os.WriteFile(filepath.Join(bin, "scp"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"envoy", "consul", "python3"} {
		path, err := tool.Find(name)
		if name == "python3" {
			var out []byte
			out, err = exec.Command("python3", "-c", "import sys; print(sys.executable)").Output()
			path = strings.TrimSpace(string(out))
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(path, filepath.Join(bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", "/usr/local/bin:"+bin+":"+os.Getenv("PATH"))
	hosts := map[string]*vm{
		"control": startVM(t, "control", bridge, "10.99.0.1", dir),
		"lake":    startVM(t, "lake", bridge, "10.99.0.2", dir),
		"web":     startVM(t, "web", bridge, "10.99.0.3", dir),
	}
	all := blocks(t, "start.md")
	if len(all) < 15 {
		t.Fatalf("the page has %d blocks", len(all))
	}
	for _, b := range all {
		if b.machine == "" {
			sh(t, "cd %s\n%s", tool.Root(), b.text)
			continue
		}
		h := hosts[b.machine]
		if h == nil {
			t.Fatalf("a block is for the machine %q", b.machine)
		}
		h.run(t, b.text)
	}
}
