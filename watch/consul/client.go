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
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// maxBody bounds an answer; all checks of 5,000 services are 6 MB.
	maxBody = 64 << 20
	// shortTimeout is for a query that does not block. A server without a leader
	// was seen to look for one for 10 s before it said so (rpc_hold_timeout, 7 s,
	// and what it adds), a stale query's too.
	shortTimeout = 20 * time.Second
)

// query is one request to Consul.
type query struct {
	path       string // escaped
	filter     string
	index      uint64 // blocks until the catalog is past it; 0: answers at once
	consistent bool   // needs the leader, and its quorum's word that it is one
}

// answer is what a 200 said.
type answer struct {
	index       uint64
	knownLeader bool // never true when Consul's streaming backend answers
	filtered    bool // the token may not see all of it
	http2       bool
	body        []byte
}

// client makes requests. It is safe for concurrent use.
type client struct {
	http   *http.Client
	base   url.URL
	params url.Values // of every request
	wait   time.Duration
	stale  string // the consistency of a watch, as a parameter; may be empty
	token  *token
	stats  *counters
}

func newClient(cfg Config, rt http.RoundTripper, stats *counters) *client {
	c := &client{
		http: &http.Client{
			Transport: rt,
			// A redirect would carry the token to where no operator sent it.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		base:   url.URL{Scheme: cfg.Scheme, Host: cfg.Address},
		params: url.Values{},
		wait:   cfg.Wait,
		token:  &token{fixed: cfg.Token, file: cfg.TokenFile},
		stats:  stats,
	}
	if cfg.Datacenter != "" {
		c.params.Set("dc", cfg.Datacenter)
	}
	if cfg.Consistency != "default" {
		c.stale = cfg.Consistency
	}
	return c
}

// get makes one request. Its errors say what an operator can act on, and are
// the same text for the same cause.
func (c *client) get(ctx context.Context, q query) (*answer, error) {
	timeout := shortTimeout
	if q.index > 0 {
		// "a small random amount of additional wait time … up to wait / 16"
		timeout += c.wait + c.wait/16
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	req, err := c.request(ctx, q)
	if err != nil {
		return nil, err
	}
	c.stats.queries.Add(1)
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, transportError(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
	switch {
	case err != nil:
		return nil, transportError(err)
	case resp.StatusCode != http.StatusOK:
		return nil, c.statusError(resp, body)
	case len(body) > maxBody:
		return nil, errors.New("the answer is larger than 64 MiB")
	}
	index, err := strconv.ParseUint(resp.Header.Get("X-Consul-Index"), 10, 64)
	if err != nil {
		return nil, errors.New("the answer has no X-Consul-Index: it is not Consul's")
	}
	return &answer{
		// "Clients should sanity check that their index is at least 1": with 0
		// the next query would not block.
		index:       max(index, 1),
		knownLeader: resp.Header.Get("X-Consul-KnownLeader") == "true",
		filtered:    resp.Header.Get("X-Consul-Results-Filtered-By-ACLs") == "true",
		http2:       resp.ProtoMajor == 2,
		body:        body,
	}, nil
}

func (c *client) request(ctx context.Context, q query) (*http.Request, error) {
	params := url.Values{}
	for k, v := range c.params {
		params[k] = v
	}
	switch {
	case q.consistent:
		params.Set("consistent", "")
	case c.stale != "":
		params.Set(c.stale, "")
	}
	if q.filter != "" {
		params.Set("filter", q.filter)
	}
	if q.index > 0 {
		params.Set("index", strconv.FormatUint(q.index, 10))
		params.Set("wait", strconv.FormatInt(c.wait.Milliseconds(), 10)+"ms")
	}
	u := c.base
	u.RawPath, u.RawQuery = q.path, params.Encode()
	var err error
	if u.Path, err = url.PathUnescape(q.path); err != nil {
		return nil, fmt.Errorf("path: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), http.NoBody)
	if err != nil {
		return nil, fmt.Errorf("request: %w", err)
	}
	token, err := c.token.read()
	if err != nil {
		return nil, err
	}
	if token != "" {
		req.Header.Set("X-Consul-Token", token)
	}
	return req, nil
}

// decode reads a JSON answer. A null is none: Consul writes [] and {}.
func decode(a *answer, v any) error {
	if bytes.Equal(bytes.TrimSpace(a.body), []byte("null")) {
		return errors.New("the answer is null: it is not Consul's")
	}
	if err := json.Unmarshal(a.body, v); err != nil {
		return errors.New("the answer is not the JSON that Consul writes")
	}
	return nil
}

// refusal is an answer other than 200. The server is there: it is not asked
// again as soon as one that is not.
type refusal struct{ message string }

func (e *refusal) Error() string { return e.message }

func (c *client) statusError(resp *http.Response, body []byte) error {
	if resp.StatusCode == http.StatusTooManyRequests {
		c.stats.tooMany.Add(1)
	}
	text, _, _ := strings.Cut(strings.TrimSpace(string(body)), "\n")
	text = text[:min(len(text), 200)]
	if strings.Contains(text, "No cluster leader") {
		return &refusal{"no leader"}
	}
	if strings.HasPrefix(text, "<") {
		text = http.StatusText(resp.StatusCode) // a page of a proxy's
	}
	return &refusal{strings.TrimSpace(fmt.Sprintf("%d %s", resp.StatusCode, text))}
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
		return errors.New("timeout")
	case errors.As(err, &op):
		return op.Err
	}
	var in *url.Error
	if errors.As(err, &in) {
		return in.Err
	}
	return err
}

// token is the ACL token, from a file if there is one.
type token struct {
	fixed, file string

	mu    sync.Mutex
	info  os.FileInfo
	value string
}

// read returns the token; the file is read again when it has changed. The
// error never holds any of its contents.
func (t *token) read() (string, error) {
	if t.file == "" {
		return t.fixed, nil
	}
	info, err := os.Stat(t.file)
	if err != nil {
		return "", fmt.Errorf("token file: %w", err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.info != nil && os.SameFile(t.info, info) && t.info.ModTime().Equal(info.ModTime()) && t.info.Size() == info.Size() {
		return t.value, nil
	}
	data, err := os.ReadFile(t.file)
	if err != nil {
		return "", fmt.Errorf("token file: %w", err)
	}
	value := strings.TrimSpace(string(data))
	if value == "" || strings.ContainsFunc(value, notInToken) {
		return "", fmt.Errorf("token file %s: no token in it", t.file)
	}
	t.info, t.value = info, value
	return value, nil
}
