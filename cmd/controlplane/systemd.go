package main

import (
	"context"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"datapunk.dev/controlplane/control"
)

const (
	// startLook is how often a process that is not ready yet is looked at, and
	// statusLook one that is.
	startLook  = 100 * time.Millisecond
	statusLook = time.Second
)

// supervised tells systemd how a control plane is: that it is ready, what it
// waits for and what it holds, that its loop still turns, that it reads the mesh
// file again, that it ends.
type supervised struct {
	notify func(state string) // sd_notify(3)
	// watchdog is in what time systemd wants to hear of it again; zero: it does not.
	watchdog time.Duration
	ready    func() control.Readiness
	// turns returns when the control loop has answered, or ctx has ended.
	turns func(context.Context) error
}

// supervisor is who started this process with a socket to hear of it, if
// somebody did: else nil.
func supervisor(log *slog.Logger, p *control.Plane) *supervised {
	if os.Getenv("NOTIFY_SOCKET") == "" {
		return nil
	}
	watchdog, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		log.Warn("the watchdog of systemd cannot be told that this process lives", "err", err)
	}
	return &supervised{
		notify: func(state string) {
			if _, err := daemon.SdNotify(false, state); err != nil {
				log.Warn("systemd was not told", "state", state, "err", err)
			}
		},
		watchdog: watchdog, ready: p.Readiness, turns: p.Turns,
	}
}

// run tells until ctx ends. The watchdog is told after the loop has answered,
// so that one that hangs is found, and the process started again.
func (s *supervised) run(ctx context.Context) {
	if s == nil {
		return
	}
	look := statusLook
	if s.watchdog > 0 {
		look = min(look, s.watchdog/3)
	}
	said, ready := "", false
	for {
		if s.turns(ctx) != nil {
			return
		}
		if s.watchdog > 0 {
			s.notify(daemon.SdNotifyWatchdog)
		}
		r := s.ready()
		if status := statusOf(r); status != said {
			s.notify("STATUS=" + status)
			said = status
		}
		next := look
		switch {
		case r.Ready && !ready:
			ready = true
			s.notify(daemon.SdNotifyReady)
		case !ready:
			next = min(look, startLook)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(next):
		}
	}
}

// reload passes a SIGHUP on. systemd shows the unit as reloading until reloaded
// is called.
func (s *supervised) reload(ctx context.Context, hangup <-chan os.Signal, on chan<- os.Signal) {
	for {
		select {
		case <-ctx.Done():
			return
		case sig := <-hangup:
			if s != nil {
				s.notify(daemon.SdNotifyReloading + "\n" + daemon.SdNotifyMonotonicUsec())
			}
			select {
			case on <- sig:
			case <-ctx.Done():
				return
			}
		}
	}
}

// reloaded says that the mesh file was read again as asked, whatever came of it.
func (s *supervised) reloaded() {
	if s != nil {
		s.notify(daemon.SdNotifyReady)
	}
}

func (s *supervised) stopping() {
	if s != nil {
		s.notify(daemon.SdNotifyStopping)
	}
}

// maxStatus bounds the line that `systemctl status` shows.
const maxStatus = 500

// statusOf is readiness in one line.
func statusOf(r control.Readiness) string {
	parts := []string{"serving"}
	if !r.Ready {
		parts[0] = "waiting for " + strings.Join(r.Waiting, "; ")
	}
	if len(r.Holding) > 0 {
		parts = append(parts, "holding "+strings.Join(r.Holding, "; "))
	}
	if len(r.Problems) > 0 {
		parts = append(parts, "problems: "+strings.Join(r.Problems, "; "))
	}
	line := strings.Join(strings.FieldsFunc(strings.Join(parts, "; "), func(c rune) bool { return c == '\n' || c == '\r' }), " ")
	if len(line) > maxStatus {
		line = strings.ToValidUTF8(line[:maxStatus], "") + " ..."
	}
	return line
}
