package traffic

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"
)

// Hear connects, says nothing, and returns what the peer says until it closes
// the connection or the time is over. A refused or reset connection is no
// error: nothing was heard.
func Hear(ctx context.Context, addr string, listen time.Duration) (string, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetReadDeadline(time.Now().Add(listen)); err != nil {
		return "", err
	}
	heard, err := io.ReadAll(conn)
	var op *net.OpError
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) && !errors.As(err, &op) {
		return string(heard), err
	}
	return string(heard), nil
}

// Echo sends a text over a new connection to an echo server and returns what
// came back for it, after skip bytes of a banner.
func Echo(ctx context.Context, addr, text string, skip int) (string, error) {
	ctx, cancel := withTimeout(ctx)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close() }()
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return "", err
		}
	}
	if _, err := io.WriteString(conn, text); err != nil {
		return "", err
	}
	buf := make([]byte, skip+len(text))
	if n, err := io.ReadFull(conn, buf); err != nil {
		return "", fmt.Errorf("echo: after %q: %w", buf[:n], err)
	}
	return string(buf[skip:]), nil
}
