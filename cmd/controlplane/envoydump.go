package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
)

// maxDump bounds what an Envoy says of itself: that of 1,000 services is 20 MB.
const maxDump = 256 << 20

// envoyDump asks an Envoy, at its admin address, what it has.
func envoyDump(ctx context.Context, address string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	transport, base := &http.Transport{}, "http://"+strings.TrimPrefix(address, "http://")
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		base = "http://envoy"
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/config_dump?include_eds", http.NoBody)
	if err != nil {
		return nil, usageError{fmt.Errorf("--envoy: %w", err)}
	}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return nil, noAnswerError{fmt.Errorf("the Envoy at %s does not answer: %w", address, err)}
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxDump))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s", resp.Status)
	}
	if err != nil {
		return nil, fmt.Errorf("the Envoy at %s: %w", address, err)
	}
	return body, nil
}
