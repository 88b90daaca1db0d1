package tool

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// stopTime is how long a process may take to end by itself.
const stopTime = 8 * time.Second

// Process is a command in a process group of its own. The kernel kills it when
// this process ends, however it ends.
type Process struct {
	Name string
	Log  *Log

	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended

	mu  sync.Mutex
	err error
}

// Command is what to run.
type Command struct {
	Name string // for messages and the log's file
	Path string
	Args []string
	Env  []string // added to this process's
	Dir  string   // where the log file NAME.log goes; empty: none
	// Stderr is its standard error, in place of the log, if not nil.
	Stderr *os.File
}

// Start starts a command. Both of its outputs go to its log.
func Start(c Command) (*Process, error) {
	p := &Process{Name: c.Name, done: make(chan struct{})}
	path := ""
	if c.Dir != "" {
		path = filepath.Join(c.Dir, c.Name+".log")
	}
	var err error
	if p.Log, err = newLog(path); err != nil {
		return nil, err
	}
	p.cmd = exec.Command(c.Path, c.Args...)
	p.cmd.Env = append(os.Environ(), c.Env...)
	p.cmd.Stdout, p.cmd.Stderr = p.Log, p.Log
	if c.Stderr != nil {
		p.cmd.Stderr = c.Stderr
	}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", c.Name, err)
	}
	go func() {
		err := p.cmd.Wait()
		p.mu.Lock()
		p.err = err
		p.mu.Unlock()
		p.Log.close()
		close(p.done)
	}()
	return p, nil
}

// Pid returns the process id.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Running reports whether the process has not ended.
func (p *Process) Running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// ExitCode returns the exit code of an ended process, -1 for one that runs or
// that a signal ended.
func (p *Process) ExitCode() int {
	if p.Running() {
		return -1
	}
	return p.cmd.ProcessState.ExitCode()
}

// Signal sends a signal to the whole group.
func (p *Process) Signal(s syscall.Signal) error {
	if !p.Running() {
		return fmt.Errorf("%s: %w", p.Name, os.ErrProcessDone)
	}
	return syscall.Kill(-p.Pid(), s)
}

// Pause freezes the process (SIGSTOP): its ports stay open and nothing answers.
func (p *Process) Pause() error { return p.Signal(syscall.SIGSTOP) }

// Resume ends Pause.
func (p *Process) Resume() error { return p.Signal(syscall.SIGCONT) }

// Kill ends the process at once (SIGKILL) and waits for its end.
func (p *Process) Kill() {
	if err := p.Signal(syscall.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return
	}
	<-p.done
}

// Stop asks the process to end (SIGTERM), waits, and kills it if it does not.
// It returns an error if it had to, or if the process had ended by itself.
func (p *Process) Stop() error {
	if !p.Running() {
		return p.withLog(p.ended())
	}
	_ = p.Signal(syscall.SIGTERM)
	_ = p.Signal(syscall.SIGCONT) // a frozen process takes no SIGTERM
	select {
	case <-p.done:
		return nil
	case <-time.After(stopTime):
		p.Kill()
		return fmt.Errorf("%s: killed, it did not end within %s of SIGTERM", p.Name, stopTime)
	}
}

// Until is the function [Until] for what this process is to do: it is over when
// the process has ended, and its error has the last of the log.
func (p *Process) Until(ctx context.Context, what string, timeout time.Duration, check func() error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-p.done:
			cancel(p.ended())
		case <-ctx.Done():
		}
	}()
	if err := Until(ctx, what, timeout, check); err != nil {
		return p.withLog(err)
	}
	return nil
}

// ended says how the process ended.
func (p *Process) ended() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	how := "exit code 0"
	if p.err != nil {
		how = p.err.Error()
	}
	return fmt.Errorf("%s has ended (%s)", p.Name, how)
}

// withLog adds the last of the log.
func (p *Process) withLog(err error) error {
	return fmt.Errorf("%w\n%s", err, p.Log.Tail(20))
}
