package consul

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

const (
	// maxBody bounds an answer; all checks of 5,000 services are 6 MB.
	maxBody = 64 << 20
	// answerTime is for a request that does not block. A server without a leader
	// was seen to look for one for 10 s before it said so (rpc_hold_timeout, 7 s,
	// and what it adds), a stale query's too.
	answerTime = 20 * time.Second
)

// Request is one request to Consul.
type Request struct {
	Method string        // GET if empty
	Path   string        // escaped
	Params url.Values    // beside the datacenter's
	Body   []byte        // JSON, or the value of a key
	Token  string        // in place of the client's own, if not empty
	Wait   time.Duration // how long a blocking query may take when nothing changes
	Expect int           // about how large the answer is; 0: not known
}

// Answer is what a 200 said.
type Answer struct {
	Index       uint64 // what a blocking query waits to be passed; 0: none was said
	KnownLeader bool   // never true when Consul's streaming backend answers
	// LastContact is how long ago the server that answered had heard from its leader.
	LastContact time.Duration
	Filtered    bool // the token may not see all of it
	Streamed    bool // by the streaming backend, which leaves that out
	HTTP2       bool
	Date        time.Time // of the clock of who answered; zero: it did not say
	Body        []byte
}

// Decode reads a JSON answer. A null is none: Consul writes [] and {}.
func (a *Answer) Decode(v any) error {
	if bytes.Equal(bytes.TrimSpace(a.Body), []byte("null")) {
		return errors.New("the answer is null: it is not Consul's")
	}
	if err := json.Unmarshal(a.Body, v); err != nil {
		return errors.New("the answer is not the JSON that Consul writes")
	}
	return nil
}

// Client makes requests. It is safe for concurrent use.
type Client struct {
	servers        *servers
	scheme         string
	params         url.Values // of every request
	token          *token
	maxConnections int

	requests, tooMany atomic.Uint64
}

// Stats are counters since the client was made.
type Stats struct {
	Requests uint64 // sent
	TooMany  uint64 // answered 429: Consul's limits
	// OnFallback is whether another address is asked now than the first.
	OnFallback bool
}

// New returns a client. An error means that the configuration cannot work;
// whether Consul answers is found by asking it.
func New(cfg Config) (*Client, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	var all []server
	for _, address := range append([]string{cfg.Address}, cfg.Fallbacks...) {
		one := server{address, cfg.RoundTripper}
		if one.transport == nil {
			to := cfg
			to.Address = address
			if one.transport, err = newTransport(to); err != nil {
				return nil, err
			}
		}
		all = append(all, one)
	}
	c := &Client{
		servers:        newServers(all),
		scheme:         cfg.Scheme,
		params:         url.Values{},
		token:          &token{fixed: cfg.Token, file: cfg.TokenFile},
		maxConnections: cfg.MaxConnections,
	}
	if cfg.Datacenter != "" {
		c.params.Set("dc", cfg.Datacenter)
	}
	return c, nil
}

// Address is where Consul is asked now, as host:port.
func (c *Client) Address() string {
	at, _ := c.servers.present()
	return at.address
}

// Anonymous reports whether requests have no token of the client's own.
func (c *Client) Anonymous() bool { return c.token.fixed == "" && c.token.file == "" }

// MaxConnections is how many requests can be under way at once by HTTP/1.1.
func (c *Client) MaxConnections() int { return c.maxConnections }

// Stats returns the counters.
func (c *Client) Stats() Stats {
	at, _ := c.servers.present()
	return Stats{Requests: c.requests.Load(), TooMany: c.tooMany.Load(), OnFallback: at.address != c.servers.all[0].address}
}

// Close closes the connections. It is called when the last request has ended.
func (c *Client) Close() { c.servers.close() }

// Do makes one request. Its errors say what an operator can act on, and are the
// same text for the same cause; an answer other than 200 is a [StatusError]. A
// write is sent once: whoever does not hear what became of it has to look.
func (c *Client) Do(ctx context.Context, r Request) (*Answer, error) {
	at, here := c.servers.present()
	// "a small random amount of additional wait time … up to wait / 16"
	inTime, cancel := context.WithTimeout(ctx, answerTime+r.Wait+r.Wait/16)
	defer cancel()
	defer context.AfterFunc(here, cancel)()
	a, err := c.do(inTime, at, r)
	if err != nil && here.Err() != nil && ctx.Err() == nil {
		return nil, ErrMoved
	}
	if ctx.Err() == nil || errors.Is(ctx.Err(), context.DeadlineExceeded) {
		c.servers.note(at.address, r.Wait > 0, err)
	}
	if err != nil {
		return nil, plainError(err)
	}
	return a, nil
}

// do makes a request to a server. Its errors are those of the transport, and of answers.
func (c *Client) do(ctx context.Context, at server, r Request) (*Answer, error) {
	req, err := c.request(ctx, at.address, r)
	if err != nil {
		return nil, err
	}
	c.requests.Add(1)
	// A redirect would carry the token to where no operator sent it.
	client := http.Client{Transport: at.transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(req)
	if err != nil {
		return nil, &transportFailure{err}
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := readBody(resp.Body, r.Expect)
	switch {
	case err != nil:
		return nil, &transportFailure{err}
	case resp.StatusCode != http.StatusOK:
		if resp.StatusCode == http.StatusTooManyRequests {
			c.tooMany.Add(1)
		}
		return nil, statusError(resp, body)
	case len(body) > maxBody:
		return nil, errors.New("the answer is larger than 64 MiB")
	}
	a := &Answer{
		KnownLeader: resp.Header.Get("X-Consul-KnownLeader") == "true",
		Filtered:    resp.Header.Get("X-Consul-Results-Filtered-By-ACLs") == "true",
		Streamed:    resp.Header.Get("X-Consul-Query-Backend") == "streaming",
		HTTP2:       resp.ProtoMajor == 2,
		Body:        body,
	}
	if date, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		a.Date = date
	}
	if ms, err := strconv.ParseUint(resp.Header.Get("X-Consul-LastContact"), 10, 64); err == nil {
		// A server that never heard from one says some hundred years.
		a.LastContact = time.Duration(min(ms, math.MaxInt64/uint64(time.Millisecond))) * time.Millisecond
	}
	if index, err := strconv.ParseUint(resp.Header.Get("X-Consul-Index"), 10, 64); err == nil {
		// "Clients should sanity check that their index is at least 1": with 0
		// the next query would not block.
		a.Index = max(index, 1)
	}
	return a, nil
}

// readBody reads a body of up to one byte more than may be.
func readBody(body io.Reader, expect int) ([]byte, error) {
	var b bytes.Buffer
	if expect > 0 {
		b.Grow(min(expect+expect/16, maxBody) + bytes.MinRead) // what it reads into when it is at the end
	}
	_, err := b.ReadFrom(io.LimitReader(body, maxBody+1))
	return b.Bytes(), err
}

func (c *Client) request(ctx context.Context, address string, r Request) (*http.Request, error) {
	params := maps.Clone(c.params)
	maps.Copy(params, r.Params)
	u := c.at(address)
	u.RawPath, u.RawQuery = r.Path, params.Encode()
	var err error
	if u.Path, err = url.PathUnescape(r.Path); err != nil {
		return nil, fmt.Errorf("path: %w", err)
	}
	var body io.Reader = http.NoBody
	if r.Body != nil {
		body = bytes.NewReader(r.Body)
	}
	req, err := http.NewRequestWithContext(ctx, r.Method, u.String(), body)
	if err != nil {
		return nil, fmt.Errorf("request: %w", err)
	}
	token := r.Token
	if token == "" {
		if token, err = c.token.read(); err != nil {
			return nil, err
		}
	}
	if strings.ContainsFunc(token, notInToken) {
		return nil, errors.New("the token has characters that no header can carry")
	}
	if token != "" {
		req.Header.Set("X-Consul-Token", token)
	}
	return req, nil
}
