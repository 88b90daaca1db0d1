// Package traffic makes requests and says what came of them: single calls,
// raw ones for what no client library would send, load, and a wire between two
// parts that can be slow, silent or cut. It knows nothing of the mesh.
package traffic

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"datapunk.dev/controlplane/e2e/app"
)

// callTimeout bounds a request whose context has no deadline.
const callTimeout = 15 * time.Second

// Request is one request to a sidecar or to an app.
type Request struct {
	Host   string
	Method string // GET if empty
	Path   string // / if empty; sent as it is
	Header http.Header
	Body   string
}

func (r Request) withDefaults() Request {
	if r.Method == "" {
		r.Method = http.MethodGet
	}
	if r.Path == "" {
		r.Path = "/"
	}
	return r
}

// Response is what came back.
type Response struct {
	Status   int
	Header   http.Header
	Body     string
	Reply    app.Reply // of the app; zero if the answer is not the app's
	Protocol string
	Took     time.Duration
}

// String is for messages.
func (r Response) String() string {
	who := ""
	if r.Reply.Instance != "" {
		who = " from " + r.Reply.Instance
	}
	return fmt.Sprintf("%d%s in %s: %.200s", r.Status, who, r.Took.Round(time.Millisecond), strings.TrimSpace(r.Body))
}

func read(resp *http.Response, began time.Time) (Response, error) {
	body, err := io.ReadAll(resp.Body)
	out := Response{Status: resp.StatusCode, Header: resp.Header, Body: string(body), Protocol: resp.Proto, Took: time.Since(began)}
	if err != nil {
		return out, fmt.Errorf("body of a %d: %w", resp.StatusCode, err)
	}
	if resp.Header.Get("X-Instance") != "" {
		if err := json.Unmarshal(body, &out.Reply); err != nil {
			return out, fmt.Errorf("the app's answer: %w", err)
		}
	}
	return out, nil
}

// Client sends to one address and keeps its connections.
type Client struct {
	addr   string
	client *http.Client
	dials  atomic.Int64
}

// NewClient returns a client that speaks HTTP/1.1 to host:port.
func NewClient(addr string) *Client { return newClient(addr, false) }

// NewHTTP2Client returns a client that speaks HTTP/2 without TLS.
func NewHTTP2Client(addr string) *Client { return newClient(addr, true) }

func newClient(addr string, http2 bool) *Client {
	c := &Client{addr: addr}
	dialer := net.Dialer{Timeout: callTimeout}
	transport := &http.Transport{
		MaxIdleConnsPerHost: 1024,
		DisableCompression:  true,
		Protocols:           new(http.Protocols),
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			c.dials.Add(1)
			return dialer.DialContext(ctx, network, addr)
		},
	}
	transport.Protocols.SetHTTP1(!http2)
	transport.Protocols.SetUnencryptedHTTP2(http2)
	c.client = &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return c
}

// Dials returns how many connections the client has opened.
func (c *Client) Dials() int { return int(c.dials.Load()) }

// Close closes the connections that are not in use.
func (c *Client) Close() { c.client.CloseIdleConnections() }

// Get calls a path of a service.
func (c *Client) Get(ctx context.Context, host, path string) (Response, error) {
	return c.Do(ctx, Request{Host: host, Path: path})
}

// Do sends a request. An answer of any status is no error.
func (c *Client) Do(ctx context.Context, r Request) (Response, error) {
	r = r.withDefaults()
	ctx, cancel := withTimeout(ctx)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, r.Method, "http://"+c.addr+r.Path, strings.NewReader(r.Body))
	if err != nil {
		return Response{}, err
	}
	req.Host = r.Host
	for name, values := range r.Header {
		req.Header[name] = values
	}
	began := time.Now()
	resp, err := c.client.Do(req)
	if err != nil {
		return Response{Took: time.Since(began)}, err
	}
	defer func() { _ = resp.Body.Close() }()
	return read(resp, began)
}

// Raw sends a request over a connection of its own, with a path that no client
// library would send as it is.
func Raw(ctx context.Context, addr string, r Request) (Response, error) {
	r = r.withDefaults()
	ctx, cancel := withTimeout(ctx)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return Response{}, err
	}
	defer func() { _ = conn.Close() }()
	return RawOver(ctx, conn, r)
}

// RawOver is [Raw] over a connection of the caller's: one with TLS, say.
func RawOver(ctx context.Context, conn net.Conn, r Request) (Response, error) {
	r = r.withDefaults()
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return Response{}, err
		}
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n", r.Method, r.Path, r.Host, len(r.Body))
	if err := r.Header.Write(&b); err != nil {
		return Response{}, err
	}
	b.WriteString("Connection: close\r\n\r\n" + r.Body)
	began := time.Now()
	if _, err := conn.Write(b.Bytes()); err != nil {
		return Response{}, err
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: r.Method})
	if err != nil {
		return Response{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	return read(resp, began)
}

func withTimeout(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, callTimeout)
}
