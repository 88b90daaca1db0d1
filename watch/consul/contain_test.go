package consul

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
)

func TestAPanicOverAnAnswerIsAFailureOfThatQuery(t *testing.T) {
	var log bytes.Buffer
	s := &Source{log: slog.New(slog.NewTextHandler(&log, nil))}
	for range 3 {
		if err := s.contained(func() error { panic("what an answer") }); err == nil || !strings.Contains(err.Error(), "what an answer") {
			t.Errorf("got %v", err)
		}
		s.step(func() { panic("what an event") })
	}
	if err := s.contained(func() error { return nil }); err != nil {
		t.Error(err)
	}
	if n := strings.Count(log.String(), "stack="); n != 1 {
		t.Errorf("%d stacks are in the log", n)
	}
}
