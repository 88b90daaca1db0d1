package consul

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"unicode"
)

// StatusError is an answer other than 200. The server is there: it is not asked
// again as soon as one that is not.
type StatusError struct {
	Code    int
	Message string // the beginning of what it said, in one line
	Body    []byte // of a 409, whole: why each operation of a transaction was refused
}

// Error is the same text for the same cause.
func (e *StatusError) Error() string {
	if e.noLeader() {
		return "no leader"
	}
	return strings.TrimSpace(fmt.Sprintf("%d %s", e.Code, e.Message))
}

func (e *StatusError) noLeader() bool { return strings.Contains(e.Message, "No cluster leader") }

func statusError(resp *http.Response, body []byte) *StatusError {
	var compact bytes.Buffer
	if json.Compact(&compact, body) == nil {
		body = compact.Bytes() // why a transaction was refused
	}
	text, _, _ := strings.Cut(strings.TrimSpace(string(body)), "\n")
	text = strings.Map(shown, strings.ToValidUTF8(text[:min(len(text), 200)], ""))
	if strings.HasPrefix(text, "<") {
		text = http.StatusText(resp.StatusCode) // a page of a proxy's
	}
	e := &StatusError{Code: resp.StatusCode, Message: text}
	if resp.StatusCode == http.StatusConflict {
		e.Body = body
	}
	return e
}

// transportFailure is a request that had no answer.
type transportFailure struct{ error }

func (e *transportFailure) Unwrap() error { return e.error }

// plainError is the error as an operator can act on it.
func plainError(err error) error {
	var failure *transportFailure
	if errors.As(err, &failure) {
		return transportError(failure.error)
	}
	return err
}

// IsTimeout reports whether a request had no answer in its time.
func IsTimeout(err error) bool { return errors.Is(err, errTimeout) }

var errTimeout = errors.New("timeout")

// shown makes a blank of what would do something to a terminal: whoever answers in
// Consul's place writes what people read.
func shown(r rune) rune {
	if unicode.IsControl(r) {
		return ' '
	}
	return r
}

// transportError drops what differs from one try to the next (ports, times),
// so that an error is logged once.
func transportError(err error) error {
	var (
		op      *net.OpError
		timeout net.Error
	)
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return errors.New("connection refused")
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return errors.New("connection reset")
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return errors.New("connection closed")
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return errTimeout
	case errors.As(err, &op):
		return op.Err
	}
	var in *url.Error
	if errors.As(err, &in) {
		return in.Err
	}
	return err
}
