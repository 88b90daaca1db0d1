package tool_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"datapunk.dev/controlplane/internal/tool"
)

// parentOf is set in a second process of this test, which starts a child.
const parentOf = "TOOL_TEST_PARENT_OF"

func TestMain(m *testing.M) {
	if path := os.Getenv(parentOf); path != "" {
		parent(path)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// parent starts a process, prints its id and waits to be killed.
func parent(path string) {
	p, err := tool.Start(tool.Command{Name: "child", Path: path, Args: []string{"60"}})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return
	}
	fmt.Println(p.Pid())
	<-p.Done()
}

func sleep(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func TestAProcessEndsWithTheOneThatStartedIt(t *testing.T) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), parentOf+"="+sleep(t))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	child, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Kill(); err != nil { // no defer, no cleanup: as when a test panics
		t.Fatal(err)
	}
	_ = cmd.Wait()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := tool.Until(ctx, "the child is gone", 5*time.Second, func() error { return alive(child) }); err != nil {
		t.Error(err)
	}
}

// alive returns an error while a process runs. One that has ended and that
// nobody has waited for yet does not.
func alive(pid int) error {
	if err := syscall.Kill(pid, 0); errors.Is(err, syscall.ESRCH) {
		return nil
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil || strings.Contains(string(stat), ") Z ") {
		return nil //nolint:nilerr // no /proc entry: it has ended
	}
	return fmt.Errorf("process %d runs", pid)
}

func TestStopEndsAFrozenProcess(t *testing.T) {
	p, err := tool.Start(tool.Command{Name: "sleep", Path: sleep(t), Args: []string{"60"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Pause(); err != nil {
		t.Fatal(err)
	}
	if err := p.Stop(); err != nil || p.Running() {
		t.Errorf("stop of a frozen process: %v", err)
	}
	if err := p.Stop(); err == nil || !strings.Contains(err.Error(), "has ended") {
		t.Errorf("a second stop does not say that it had ended: %v", err)
	}
}

func TestUntilSaysWhatItLastSaw(t *testing.T) {
	err := tool.Until(t.Context(), "the lake is full", 50*time.Millisecond, func() error { return errors.New("half") })
	if err == nil || !strings.Contains(err.Error(), "the lake is full") || !strings.Contains(err.Error(), "half") {
		t.Errorf("got %v", err)
	}
}
