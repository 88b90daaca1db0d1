package sidecar

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"datapunk.dev/controlplane/resource"
)

// adminTime bounds a request to an Envoy's admin interface.
const adminTime = 3 * time.Second

// envoyAdmin is an Envoy's admin interface, on a Unix socket.
type envoyAdmin struct{ client *http.Client }

func newEnvoyAdmin(socket string) *envoyAdmin {
	return &envoyAdmin{client: &http.Client{
		Timeout: adminTime,
		Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		}},
	}}
}

func (a *envoyAdmin) ask(ctx context.Context, method, path string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://envoy"+path, nil)
	if err != nil {
		return "", err
	}
	resp, err := a.client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close() //nolint:errcheck // read only
	body, err := io.ReadAll(io.LimitReader(resp.Body, 8<<20))
	if err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s: %d: %.200s", path, resp.StatusCode, strings.TrimSpace(string(body)))
	}
	return string(body), nil
}

// ready returns nil when the Envoy has its first configuration.
func (a *envoyAdmin) ready(ctx context.Context) error {
	_, err := a.ask(ctx, http.MethodGet, "/ready")
	return err
}

// drain has it ask its peers to go elsewhere: health checks fail, HTTP/1
// connections close after their next answer, HTTP/2 ones get a GOAWAY. It goes on
// to accept and to answer, for whoever comes nevertheless.
func (a *envoyAdmin) drain(ctx context.Context) error {
	if _, err := a.ask(ctx, http.MethodPost, "/healthcheck/fail"); err != nil {
		return err
	}
	_, err := a.ask(ctx, http.MethodPost, "/drain_listeners?graceful&skip_exit&inboundonly")
	return err
}

// busy returns how many requests are under way, and TCP connections: those of
// the peers to the application, and those of the application to others.
func (a *envoyAdmin) busy(ctx context.Context) (n int, err error) {
	filter := `^(http\.(inbound|outbound)\.downstream_rq_active|cluster\.` + resource.ClusterLocalApp + `[^.]*\.upstream_rq_active)$`
	text, err := a.ask(ctx, http.MethodGet, "/stats?filter="+url.QueryEscape(filter))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(text) {
		_, value, ok := strings.Cut(strings.TrimSpace(line), ": ")
		if !ok {
			continue
		}
		active, err := strconv.Atoi(value)
		if err != nil {
			return 0, fmt.Errorf("/stats: %q: %w", line, err)
		}
		n += active
	}
	return n, nil
}
