package sidecar

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// killAfter is how long an Envoy may take to end by itself once it is told to.
const killAfter = 5 * time.Second

// envoy is a running Envoy. It ends when this process does, however that ends:
// one that nobody renews the token of, and that nobody can make leave, would keep
// its ports from its successor.
type envoy struct {
	cmd   *exec.Cmd
	began time.Time
	done  chan struct{} // closed when it has ended
	err   error         // why, then
}

// envoyOptions say how to start one.
type envoyOptions struct {
	path      string
	config    string
	level     string // of its log
	workers   int    // 0: as many as it finds cores
	drainTime time.Duration
	stdout    *os.File // what it writes to its standard output: access logs
	log       *slog.Logger
}

func (o envoyOptions) args() []string {
	args := []string{
		"-c", o.config, "-l", o.level, "--log-format", logFormat,
		// Envoys of one machine would share memory by a number that each is to have
		// of its own.
		"--disable-hot-restart",
		"--drain-time-s", strconv.Itoa(int(o.drainTime / time.Second)), "--drain-strategy", "immediate",
	}
	if o.workers > 0 {
		args = append(args, "--concurrency", strconv.Itoa(o.workers))
	}
	return args
}

func startEnvoy(o envoyOptions) (*envoy, error) {
	lines, log, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	e := &envoy{cmd: exec.Command(o.path, o.args()...), began: time.Now(), done: make(chan struct{})}
	e.cmd.Stdout, e.cmd.Stderr = o.stdout, log
	// In a group of its own, so that an interrupt at a terminal is for the sidecar alone.
	e.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go func() {
		// The kernel kills the child when the thread that started it ends.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := e.cmd.Start()
		_ = log.Close()
		started <- err
		if err != nil {
			return
		}
		e.err = e.cmd.Wait()
		close(e.done)
	}()
	if err := <-started; err != nil {
		_ = lines.Close()
		return nil, fmt.Errorf("start envoy: %w", err)
	}
	go func() {
		defer lines.Close() //nolint:errcheck // read only
		passOn(lines, o.log)
	}()
	return e, nil
}

func (e *envoy) running() bool {
	select {
	case <-e.done:
		return false
	default:
		return true
	}
}

// stop ends it: at once, for what was to be drained is.
func (e *envoy) stop() {
	if !e.running() {
		return
	}
	_ = e.cmd.Process.Signal(syscall.SIGTERM)
	_ = e.cmd.Process.Signal(syscall.SIGCONT) // a frozen process takes no SIGTERM
	select {
	case <-e.done:
	case <-time.After(killAfter):
		_ = e.cmd.Process.Kill()
		<-e.done
	}
}

// logFormat has what is needed to make a line of Envoy's log one of ours.
const logFormat = "%L\t%n\t%v"

// passOn logs what Envoy logs, line by line.
func passOn(from io.Reader, log *slog.Logger) {
	levels := map[string]slog.Level{
		"T": slog.LevelDebug, "D": slog.LevelDebug, "I": slog.LevelInfo, "W": slog.LevelWarn, "E": slog.LevelError, "C": slog.LevelError,
	}
	lines := bufio.NewReaderSize(from, 64<<10)
	for {
		text, err := lines.ReadString('\n')
		if text = strings.TrimRight(text, "\r\n"); text != "" {
			parts := strings.SplitN(text, "\t", 3)
			level, ok := levels[parts[0]]
			if len(parts) == 3 && ok {
				log.Log(context.Background(), level, parts[2], "envoy", parts[1])
			} else {
				log.Info(text, "envoy", "")
			}
		}
		if err != nil {
			return
		}
	}
}

// versionLine is what `envoy --version` prints: the commit, the version, the
// state of its tree, how and with what it was built.
var versionLine = regexp.MustCompile(`version: [^/]*/(\d+)\.(\d+)\.\d+[^/]*/`)

// envoyVersion asks an Envoy which it is, MAJOR.MINOR.
func envoyVersion(ctx context.Context, path string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, "--version").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s --version: %w: %.200s", path, err, strings.TrimSpace(string(out)))
	}
	m := versionLine.FindStringSubmatch(string(out))
	if m == nil {
		return "", fmt.Errorf("%s --version is not understood, is it an Envoy? %.200s", path, strings.TrimSpace(string(out)))
	}
	return m[1] + "." + m[2], nil
}

// envoyAccepts returns nil if an Envoy can start with a bootstrap.
func envoyAccepts(ctx context.Context, path, bootstrap string) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, "--mode", "validate", "-c", bootstrap, "-l", "error", "--disable-hot-restart").CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s does not take the bootstrap: %w: %.500s", path, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// compareVersions is negative if a is older than b, both MAJOR.MINOR.
func compareVersions(a, b string) (int, error) {
	number := func(v string) (int, error) {
		major, minor, ok := strings.Cut(v, ".")
		x, err := strconv.Atoi(major)
		y, err2 := strconv.Atoi(minor)
		if !ok || err != nil || err2 != nil {
			return 0, fmt.Errorf("%q is no version", v)
		}
		return x*1000 + y, nil
	}
	x, err := number(a)
	y, err2 := number(b)
	return x - y, errors.Join(err, err2)
}
