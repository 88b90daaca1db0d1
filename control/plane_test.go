package control

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"golang.org/x/time/rate"
)

// An Envoy whose token has expired tries again every few seconds, for ever.
func TestRefusedClientsDoNotFillTheLog(t *testing.T) {
	var log bytes.Buffer
	p := &Plane{Options: Options{Log: slog.New(slog.NewTextHandler(&log, nil))}, refusals: rate.NewLimiter(rate.Every(refusalEvery), refusalBurst)}
	for range 1000 {
		p.refused(errors.New("10.0.0.9:4711: token is expired"))
	}
	if n := strings.Count(log.String(), "token is expired"); n != refusalBurst {
		t.Errorf("%d lines, want %d", n, refusalBurst)
	}
	if p.unauthorized != 1000 || p.unsaid != 1000-refusalBurst {
		t.Errorf("counted %d, of which %d are not in the log", p.unauthorized, p.unsaid)
	}
}
