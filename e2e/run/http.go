package run

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// httpTimeout bounds one request to an admin interface.
const httpTimeout = 10 * time.Second

// admin is a client of a part's HTTP interface on TCP or a Unix socket.
type admin struct {
	base   string
	client *http.Client
}

func tcpAdmin(addr string) *admin {
	return &admin{base: "http://" + addr, client: &http.Client{Timeout: httpTimeout, Transport: &http.Transport{DisableKeepAlives: true}}}
}

func unixAdmin(socket string) *admin {
	return &admin{base: "http://envoy", client: &http.Client{Timeout: httpTimeout, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
	}}}
}

// get returns status and body.
func (a *admin) get(path string) (int, []byte, error) {
	resp, err := a.client.Get(a.base + path)
	if err != nil {
		return 0, nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, body, err
}

// json decodes the answer to a GET, which must be 200.
func (a *admin) json(path string, into any) error {
	status, body, err := a.get(path)
	if err != nil {
		return err
	}
	if status != http.StatusOK {
		return fmt.Errorf("GET %s: %d: %.300s", path, status, body)
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("GET %s: %w", path, err)
	}
	return nil
}
