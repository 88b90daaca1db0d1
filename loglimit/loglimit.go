// Package loglimit keeps clients from filling the log. Each kind of line has so
// many at once, and then one each so often; what was left out is counted, and
// the log has the count.
package loglimit

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

const (
	// burst is how many lines of a kind there may be at once, and every is how
	// often there is one after them.
	burst = 10
	every = 10 * time.Second
	// maxKinds bounds the kinds that are told apart. Those after them are one.
	maxKinds = 256
	// maxText bounds a text in a line, in bytes: a client may have chosen it.
	maxText = 8 << 10
)

// Handler passes on so many lines of each kind. Lines are of one kind if they
// have the same level and message; attributes tell none apart, for their values
// may be a client's.
type Handler struct {
	next  slog.Handler
	lines *lines // of all handlers that come from one
}

// New returns a handler in front of another.
func New(next slog.Handler) *Handler {
	return &Handler{next: next, lines: &lines{root: next, kinds: make(map[kind]*count)}}
}

type lines struct {
	root  slog.Handler
	mu    sync.Mutex
	kinds map[kind]*count
}

type kind struct {
	level   slog.Level
	message string
}

// others is the kind of all that are too many.
var others = kind{slog.LevelWarn, "lines of other kinds"}

type count struct {
	left   int       // how many may come now
	since  time.Time // when that was so
	unsaid int       // lines that were left out since the log had one
	timer  bool      // settle is to be called
}

// refill adds the lines that may come by now.
func (c *count) refill(now time.Time) {
	if more := int(now.Sub(c.since) / every); more > 0 {
		c.left = min(c.left+more, burst)
		c.since = c.since.Add(time.Duration(more) * every)
	}
}

// Enabled implements [slog.Handler].
func (h *Handler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.next.Enabled(ctx, level)
}

// WithAttrs implements [slog.Handler].
func (h *Handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	bounded := make([]slog.Attr, len(attrs))
	for i, a := range attrs {
		bounded[i] = clip(a)
	}
	return &Handler{h.next.WithAttrs(bounded), h.lines}
}

// WithGroup implements [slog.Handler].
func (h *Handler) WithGroup(name string) slog.Handler {
	return &Handler{h.next.WithGroup(name), h.lines}
}

// Handle implements [slog.Handler].
func (h *Handler) Handle(ctx context.Context, r slog.Record) error {
	unsaid, ok := h.lines.take(kind{r.Level, r.Message})
	if !ok {
		return nil
	}
	line := slog.NewRecord(r.Time, r.Level, r.Message, r.PC)
	r.Attrs(func(a slog.Attr) bool {
		line.AddAttrs(clip(a))
		return true
	})
	if unsaid > 0 {
		line.AddAttrs(slog.Int("not_logged_before", unsaid))
	}
	return h.next.Handle(ctx, line)
}

// take reports whether the log may have a line now, and how many of its kind it
// has not had before it.
func (l *lines) take(k kind) (unsaid int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.kinds[k]
	if c == nil && len(l.kinds) >= maxKinds {
		k = others
		c = l.kinds[k]
	}
	now := time.Now()
	if c == nil {
		c = &count{left: burst, since: now}
		l.kinds[k] = c
	}
	c.refill(now)
	if c.left == 0 {
		c.unsaid++
		l.settleLater(k, c)
		return 0, false
	}
	c.left--
	unsaid, c.unsaid = c.unsaid, 0
	return unsaid, true
}

func (l *lines) settleLater(k kind, c *count) {
	if !c.timer {
		c.timer = true
		time.AfterFunc(every, func() { l.settle(k) })
	}
}

// settle says how many lines were left out, if none has come after them.
func (l *lines) settle(k kind) {
	l.mu.Lock()
	c := l.kinds[k]
	c.timer = false
	c.refill(time.Now())
	unsaid := c.unsaid
	if unsaid > 0 && c.left == 0 { // the flood goes on, and its next line says so
		l.settleLater(k, c)
		unsaid = 0
	} else if unsaid > 0 {
		c.left--
		c.unsaid = 0
	}
	l.mu.Unlock()
	if unsaid == 0 {
		return
	}
	r := slog.NewRecord(time.Now(), k.level, "lines were left out of the log", 0)
	r.AddAttrs(slog.String("line", k.message), slog.Int("not_logged_before", unsaid))
	_ = l.root.Handle(context.Background(), r)
}

// clip shortens the texts of an attribute.
func clip(a slog.Attr) slog.Attr {
	v := a.Value.Resolve()
	switch v.Kind() {
	case slog.KindString:
		if s := v.String(); len(s) > maxText {
			a.Value = slog.StringValue(s[:maxText] + "…")
		}
	case slog.KindAny:
		if err, ok := v.Any().(error); ok {
			return clip(slog.String(a.Key, err.Error()))
		}
	}
	return a
}
