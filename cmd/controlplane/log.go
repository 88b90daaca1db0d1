package main

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"os/signal"
	"syscall"

	"google.golang.org/grpc/grpclog"
)

// besideAProxy are the settings of the log of a command that runs beside a
// proxy for as long as that does.
func besideAProxy() *settings { return &settings{LogLevel: slog.LevelInfo.String(), LogFormat: "text"} }

// openLog returns the log of a process that stays, and the writer behind it,
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
	slog.SetDefault(log) // of package log too, and of gRPC: see logOfGRPC
	return log, out, nil
}

// logOfGRPC makes what gRPC says of itself go where the log goes. It is to be
// called before gRPC is used for anything.
func logOfGRPC() {
	grpclog.SetLoggerV2(grpclog.NewLoggerV2(io.Discard, toDefault(slog.LevelDebug), toDefault(slog.LevelError)))
}

// toDefault writes lines to the log that is the default by then, at its level.
type toDefault slog.Level

func (level toDefault) Write(line []byte) (int, error) {
	slog.Log(context.Background(), slog.Level(level), "gRPC: "+string(bytes.TrimSpace(line)))
	return len(line), nil
}
