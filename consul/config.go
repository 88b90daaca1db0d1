// Package consul is how Consul's HTTP API is reached, to read and to write: its
// address, TLS, the token and its file, the connections, and what its failures
// are. It knows nothing of what is read or written.
//
// The requests are its own, not those of the consul/api client: that one takes
// what its configuration leaves empty (token, token file, namespace) from
// CONSUL_* in the environment, and an operator's file must say it all.
//
// Over HTTPS a few HTTP/2 connections carry all requests. Over plain HTTP each
// holds a connection, and an agent refuses a client its 201st
// (limits.http_max_conns_per_client).
package consul

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
)

// Config is how to reach Consul.
type Config struct {
	Address string // host:port of an agent's HTTP API
	// Fallbacks are others of the same datacenter, host:port, for when the one that is
	// asked does not answer, or is out of touch with its leader.
	Fallbacks  []string
	Scheme     string // "http" (default) or "https"
	Datacenter string // empty: the agent's own
	Token      string // sent with each request; empty: anonymous
	TokenFile  string // wins over Token; read again when it changes
	TLS        TLS    // for scheme https

	// MaxConnections is the budget of HTTP/1.1 connections; default 150, at
	// least 16. An agent's own limit is 200 a client.
	MaxConnections int
	// RoundTripper stands in for connections of the client's own.
	RoundTripper http.RoundTripper
}

// TLS is the TLS material. The client's certificate is read again at each
// handshake, the CA at start.
type TLS struct {
	CAFile, CertFile, KeyFile string
	ServerName                string // empty: the address's host
}

func (c Config) withDefaults() (Config, error) {
	if c.Scheme == "" {
		c.Scheme = "http"
	}
	if c.MaxConnections == 0 {
		c.MaxConnections = 150
	}
	var errs []error
	for _, address := range append([]string{c.Address}, c.Fallbacks...) {
		if _, port, err := net.SplitHostPort(address); err != nil || port == "" {
			errs = append(errs, fmt.Errorf("address %q is not host:port", address))
		}
	}
	if c.Scheme != "http" && c.Scheme != "https" {
		errs = append(errs, fmt.Errorf("scheme %q is neither http nor https", c.Scheme))
	}
	if c.Scheme == "http" && c.TLS != (TLS{}) {
		errs = append(errs, errors.New("TLS files are given, and the scheme is http"))
	}
	if (c.TLS.CertFile == "") != (c.TLS.KeyFile == "") {
		errs = append(errs, errors.New("a client certificate needs both its file and its key's"))
	}
	if c.MaxConnections < 16 {
		errs = append(errs, fmt.Errorf("%d connections are fewer than 16", c.MaxConnections))
	}
	if strings.ContainsFunc(c.Token, notInToken) {
		errs = append(errs, errors.New("the token has characters that no header can carry"))
	}
	return c, errors.Join(errs...)
}
