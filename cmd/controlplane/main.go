// Command controlplane serves Envoy configuration made of a Consul catalog and
// the operators' mesh file. This package owns the command line, the
// process's own settings, its log and its sockets; it decides nothing about the
// mesh.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	logOfGRPC()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := newRootCommand().ExecuteContext(ctx)
	stop()
	os.Exit(exitCode(err))
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
