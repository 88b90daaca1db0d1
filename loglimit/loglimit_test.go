package loglimit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"datapunk.dev/controlplane/internal/testlog"
)

// logged returns a logger and what it has written.
func logged() (*slog.Logger, func() []string) {
	var b testlog.Buffer
	log := slog.New(New(slog.NewTextHandler(&b, nil)))
	return log, func() []string { return strings.Split(strings.TrimSpace(b.String()), "\n") }
}

var unsaid = regexp.MustCompile(`not_logged_before=(\d+)`)

// accounted sums up the lines and those that they say were left out.
func accounted(t *testing.T, lines []string, message string) (sum int) {
	t.Helper()
	for _, line := range lines {
		if strings.Contains(line, "msg="+strconv.Quote(message)) {
			sum++
		}
		if m := unsaid.FindStringSubmatch(line); m != nil && strings.Contains(line, message) {
			n, err := strconv.Atoi(m[1])
			if err != nil {
				t.Fatal(err)
			}
			sum += n
		}
	}
	return sum
}

// Whatever a client does, there are ten lines of a kind, and then one each ten
// seconds; each says how many there were before it. When it is over the log
// has every one, as a line or in a count.
func TestAFloodOfLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, lines := logged()
		const total = 60_000
		for i := range total {
			log.With("node", i).Warn("stream refused", "err", fmt.Errorf("client %d", i))
			time.Sleep(time.Millisecond)
		}
		if n := len(lines()); n != burst+6-1 && n != burst+6 {
			t.Errorf("%d lines in a minute", n)
		}
		time.Sleep(time.Minute)
		all := lines()
		if n := len(all); n > burst+7 {
			t.Errorf("%d lines, of which one should be the end", n)
		}
		if n := accounted(t, all, "stream refused"); n != total {
			t.Errorf("%d of %d accounted for", n, total)
		}
	})
}

func TestOneKindDoesNotSilenceAnother(t *testing.T) {
	log, lines := logged()
	for range 1000 {
		log.Warn("stream refused")
	}
	log.Error("stream refused") // a level tells kinds apart
	log.With("a", 1).WithGroup("g").Info("proxy connected", "b", 2)
	all := lines()
	if n := len(all); n != burst+2 {
		t.Errorf("%d lines", n)
	}
	if last := all[len(all)-1]; !strings.Contains(last, `msg="proxy connected" a=1 g.b=2`) {
		t.Error(last)
	}
}

// Messages are the program's own, so there are few; were one made of what a
// client says, it would cost as little.
func TestKindsAreBounded(t *testing.T) {
	log, lines := logged()
	for i := range 100_000 {
		log.Warn("message " + strconv.Itoa(i))
	}
	if n, most := len(lines()), maxKinds+burst; n > most {
		t.Errorf("%d lines, more than %d", n, most)
	}
}

func TestTextsAreBounded(t *testing.T) {
	var b bytes.Buffer
	log := slog.New(New(slog.NewJSONHandler(&b, nil)))
	long := strings.Repeat("x", 1<<20)
	log.With("node", long).Warn("stream refused", "name", long, "err", errors.New(long))
	if b.Len() > 4*maxText {
		t.Errorf("a line of %d bytes", b.Len())
	}
}

func TestLevelsAreThoseOfTheHandlerBehind(t *testing.T) {
	h := New(slog.NewTextHandler(&bytes.Buffer{}, &slog.HandlerOptions{Level: slog.LevelError}))
	if h.Enabled(context.Background(), slog.LevelWarn) || !h.Enabled(context.Background(), slog.LevelError) {
		t.Error("the level is not passed on")
	}
}
