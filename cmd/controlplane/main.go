// Command controlplane serves Envoy configuration made of a Consul catalog and
// the operators' mesh file. This package owns the command line, the
// process's own settings, its log and its sockets; it decides nothing about the
// mesh.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"datapunk.dev/controlplane/yamlfile"
)

func main() {
	logOfGRPC()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := newRootCommand().ExecuteContext(ctx)
	stop()
	os.Exit(exitCode(err))
}

// exitCode prints an error as one line, unless it was shown already, and
// returns 2 for a wrong command line and 1 for everything else.
func exitCode(err error) int {
	var usage usageError
	var shown shownError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &shown):
		return 1
	case errors.As(err, &usage):
		lastWord(err)
		return 2
	default:
		lastWord(err)
		return 1
	}
}

// lastWord prints why the process ends. It does not wait for ever for somebody
// to read it.
func lastWord(err error) {
	said := make(chan struct{})
	go func() {
		fmt.Fprintf(os.Stderr, "controlplane: %v\n", err)
		close(said)
	}()
	select {
	case <-said:
	case <-time.After(flushTime):
	}
}

// usageError is a wrong flag or argument.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// shownError is an error that the command has printed in a form of its own.
type shownError struct{ error }

// shown writes what is wrong with a file, each problem with its line.
func shown(w io.Writer, err error) error {
	var problems yamlfile.Problems
	if !errors.As(err, &problems) {
		return err
	}
	for _, p := range problems {
		p.Format(w)
	}
	return shownError{err}
}
