// Command demo runs a whole mesh on this machine (a Consul agent, the control
// plane, sidecar Envoys, their apps) and shows it at work. It owns the script
// and what it prints; what it starts comes from e2e/run. Everything that it
// started ends with it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"datapunk.dev/controlplane/e2e/run"
)

func main() {
	o := options{}
	flag.BoolVar(&o.once, "once", false, "run the script and exit: 0 only if each step was seen to happen")
	flag.StringVar(&o.catalog, "catalog", "consul", "consul, or file to do without it")
	flag.StringVar(&o.binary, "binary", "", "the control plane to run (default: build it)")
	flag.Parse()
	if flag.NArg() > 0 || o.catalog != "consul" && o.catalog != "file" {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := demonstrate(ctx, o)
	stop()
	switch {
	case err == nil:
	case errors.Is(err, context.Canceled):
		os.Exit(130) // interrupted before the script was over
	default:
		fmt.Fprintf(os.Stderr, "\ndemo: %v\n", err)
		os.Exit(1)
	}
}

type options struct {
	once    bool
	catalog string
	binary  string
}

// demonstrate runs the demo. It returns when everything has stopped.
func demonstrate(ctx context.Context, o options) (err error) {
	s := newScreen(os.Stdout)
	dir, err := os.MkdirTemp("", "mesh-demo-")
	if err != nil {
		return err
	}
	if o.binary == "" {
		if o.binary, err = run.Build(dir, "-trimpath"); err != nil {
			return err
		}
	}
	d := &demo{screen: s, dir: dir, options: o, began: time.Now()}
	defer func() {
		err = errors.Join(err, d.close())
		if err == nil || ctx.Err() != nil {
			_ = os.RemoveAll(dir)
		} else {
			fmt.Fprintf(os.Stderr, "\nThe logs are in %s\n", dir)
		}
	}()
	if err := d.start(ctx); err != nil {
		return err
	}
	if err := d.show(ctx); err != nil {
		return err
	}
	failed := d.script(ctx)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if o.once {
		return failed
	}
	d.load.Stop()
	d.invite(failed)
	<-ctx.Done()
	return nil
}
