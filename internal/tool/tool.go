// Package tool runs the programs that tests, the demo and the bench need beside
// themselves: Envoy, Consul, Prometheus, the control plane's own binary. It owns
// where a program is found, child processes that never outlive their parent,
// their logs and ports, and waiting for what they do. It knows nothing of the
// control plane, so that a test of any room may import it, nor how a program is
// set up, and it is linked into nothing that is shipped.
package tool

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// Root returns the root of the repository.
func Root() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Dir(filepath.Dir(filepath.Dir(file)))
}

// Find returns the path of a component: what $NAME says, else what is on PATH,
// else what the repository's tools installed.
func Find(name string) (string, error) {
	variable := strings.ToUpper(name)
	if path := os.Getenv(variable); path != "" {
		if _, err := os.Stat(path); err != nil {
			return "", fmt.Errorf("$%s: %w", variable, err)
		}
		return path, nil
	}
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	path := filepath.Join(Root(), ".tools", "bin", name)
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	return "", fmt.Errorf("%s is not there: not in $%s, on PATH or in .tools/bin; `make tools` installs it", name, variable)
}

// Output is what a command that ended left behind.
type Output struct {
	Stdout, Stderr string
	Code           int
}

// Exec runs a command to its end. Only a command that could not run, or did
// not end in time, is an error; its exit code is not.
func Exec(ctx context.Context, path string, env []string, args ...string) (Output, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	out := Output{Stdout: stdout.String(), Stderr: stderr.String(), Code: cmd.ProcessState.ExitCode()}
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || ctx.Err() != nil) {
		return out, fmt.Errorf("run %s %s: %w\n%s", filepath.Base(path), strings.Join(args, " "), err, out.Stderr)
	}
	return out, nil
}
