package xds

import (
	"errors"
	"strings"
	"time"

	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/xds/wire"
)

// Issuer has a certificate for each proxy.
type Issuer interface {
	// Lease starts the certificate of a proxy that has proved to be a node of
	// the service. Until the lease is released, changed is called each time
	// that a secret of it is due to be sent again; it does not block.
	Lease(service, node string, changed func()) (Lease, error)
}

// Lease is one proxy's certificate while its stream lasts. Its methods are
// called by one goroutine.
type Lease interface {
	// Secret returns the secret to serve under the name, "default" or the
	// proxy's SPIFFE ID, and issues a certificate if need be. The error is
	// [ErrNoSecret] for a SPIFFE ID that is not the proxy's. After another
	// error the stream asks again some seconds later.
	Secret(name string) (*Secret, error)
	// Adopt is told that the proxy still has the version from an earlier
	// stream. It reports whether that is good until it is due for renewal: then
	// it is not sent again, and changed is called at its time.
	Adopt(version string) bool
	// Release ends the lease.
	Release()
}

// Secret is an encoded envoy.extensions.transport_sockets.tls.v3.Secret with a
// private key.
type Secret struct {
	Version string
	Body    []byte
	Serial  string    // of the certificate
	Expires time.Time // when the certificate ends
}

// ErrNoSecret says that a lease has no secret of that name.
var ErrNoSecret = errors.New("no secret of that name")

const spiffeScheme = "spiffe://"

// maxRefusals is how many refused names of one stream are told apart.
const maxRefusals = 64

// secrets decides which secrets a stream may have, and holds those that are
// its proxy's alone.
type secrets struct {
	stream *stream
	lease  Lease
	sent   map[string]*resource.Resource // of the lease: what the client has
	fresh  map[string]*resource.Resource // of the lease: what it is to have
	count  uint64                        // how many of the lease were sent
	err    error                         // why there is no certificate, until retry
	retry  time.Time

	refused map[string]struct{} // names that were logged
}

// leased reports whether a secret of the name holds a private key: it comes
// from the lease and never from a view.
func leased(name string) bool {
	if name == resource.SecretIdentity {
		return true
	}
	id, ok := strings.CutPrefix(name, spiffeScheme)
	return ok && strings.Contains(id, "/")
}

// authorize notes the names of a request that the client may not have. For it
// there are no such secrets, whether they exist or not. It may not ask for all.
func (c *secrets) authorize(r *wire.Request) {
	if r.All {
		r.All = false
		c.refuse(wire.Wildcard)
	}
	for _, name := range r.Names {
		if !c.mayHave(name) {
			c.refuse(name)
		}
	}
}

func (c *secrets) mayHave(name string) bool {
	service := c.stream.node.Cluster
	if leased(name) {
		if c.stream.credential == nil || c.stream.server.options.Issuer == nil {
			return false // nobody has proved anything
		}
		if name == resource.SecretIdentity {
			return true
		}
		_, path, _ := strings.Cut(strings.TrimPrefix(name, spiffeScheme), "/")
		return path == service
	}
	return name == resource.SecretRoots || strings.HasPrefix(name, spiffeScheme) ||
		name == resource.SecretCallers(service)
}

func (c *secrets) refuse(name string) {
	c.stream.server.metrics.unauthorized.Inc()
	if _, ok := c.refused[name]; ok || len(c.refused) >= maxRefusals {
		return
	}
	if c.refused == nil {
		c.refused = make(map[string]struct{})
	}
	c.refused[name] = struct{}{}
	c.stream.log.Warn("secret refused", "name", name)
}

// get returns the secret of the lease that the client is to have. With again,
// it is needed in full, even if the client has it.
func (c *secrets) get(name string, again bool) (*resource.Resource, error) {
	if r := c.fresh[name]; r != nil && (r.Body != nil || !again) {
		return r, nil
	}
	s := c.stream
	if c.err != nil && time.Now().Before(c.retry) {
		s.pushAgainAt(c.retry)
		return nil, c.err
	}
	if err := c.take(); err != nil {
		return nil, c.failed(name, err)
	}
	secret, err := c.lease.Secret(name)
	if errors.Is(err, ErrNoSecret) {
		c.refuse(name)
		return nil, err
	}
	if err != nil {
		return nil, c.failed(name, err)
	}
	c.err = nil
	r := &resource.Resource{Type: resource.Secret, Name: name, Version: secret.Version, Body: secret.Body}
	c.put(&c.fresh, r)
	s.status.certified(secret.Version, secret.Serial, secret.Expires)
	return r, nil
}

func (c *secrets) failed(name string, err error) error {
	s := c.stream
	s.log.Error("no certificate for a proxy", "name", name, "err", err)
	c.err, c.retry = err, time.Now().Add(s.server.options.Timeouts.SecretRetry)
	s.pushAgainAt(c.retry)
	return err
}

// take starts the lease if it has not begun.
func (c *secrets) take() error {
	if c.lease != nil {
		return nil
	}
	s := c.stream
	lease, err := s.server.options.Issuer.Lease(s.node.Cluster, s.node.ID, func() {
		s.secretsDue.Store(true)
		s.wake()
	})
	if err != nil {
		return err
	}
	c.lease = lease
	return nil
}

// adopt reports whether the client may keep what it has from an earlier
// stream.
func (c *secrets) adopt(name, version string) bool {
	if err := c.take(); err != nil || !c.lease.Adopt(version) {
		return false
	}
	r := &resource.Resource{Type: resource.Secret, Name: name, Version: version}
	c.put(&c.fresh, r)
	c.put(&c.sent, r)
	c.stream.status.certified(version, "", time.Time{})
	return true
}

// refresh has the secrets of the lease sent again if one is due.
func (c *secrets) refresh() {
	s := c.stream
	if !s.secretsDue.Swap(false) {
		return
	}
	clear(c.fresh)
	c.err = nil
	ts := &s.types[resource.Secret]
	if !ts.base.known() {
		return
	}
	for name := range c.sent {
		ts.track(name)
	}
}

// wasSent notes what the client was sent.
func (c *secrets) wasSent(changes []change) {
	for _, ch := range changes {
		if ch.res != nil && leased(ch.name) {
			c.put(&c.sent, ch.res)
			c.count++
		}
	}
}

func (c *secrets) put(m *map[string]*resource.Resource, r *resource.Resource) {
	if *m == nil {
		*m = make(map[string]*resource.Resource)
	}
	(*m)[r.Name] = r
}

func (c *secrets) release() {
	if c.lease != nil {
		c.lease.Release()
	}
}
