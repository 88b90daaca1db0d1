package main

import (
	"bytes"
	"io"
	"log/slog"
	"os/signal"
	"syscall"

	"google.golang.org/grpc/grpclog"
)

// openLog returns the log of a process that serves, and the writer behind it,
// which is to be closed at the end. What libraries say of themselves goes the
// same way: each would wait for a reader that does not read, and a reader that
// is gone would end the process by SIGPIPE.
func openLog(w io.Writer, s *settings) (*slog.Logger, *logWriter, error) {
	as := *s
	if as.LogFormat == "" {
		if as.LogFormat = "json"; isTerminal(w) {
			as.LogFormat = "text"
		}
	}
	if _, err := newLogger(w, &as); err != nil {
		return nil, nil, err
	}
	var line bytes.Buffer
	always := as
	always.LogLevel = slog.LevelWarn.String()
	gap, err := newLogger(&line, &always)
	if err != nil {
		return nil, nil, err
	}
	signal.Ignore(syscall.SIGPIPE) // a write says so too
	out := newLogWriter(w, func(n uint64) []byte {
		line.Reset()
		gap.Warn("log lines were left out: they were not read, or could not be written", "lines", n)
		return line.Bytes()
	})
	log, err := newLogger(out, &as)
	if err != nil {
		return nil, nil, err
	}
	slog.SetDefault(log)
	grpclog.SetLoggerV2(grpclog.NewLoggerV2(io.Discard,
		slog.NewLogLogger(log.Handler(), slog.LevelDebug).Writer(),
		slog.NewLogLogger(log.Handler(), slog.LevelError).Writer()))
	return log, out, nil
}
