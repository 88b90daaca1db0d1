package policy

import (
	"crypto/x509"
	"encoding/pem"
	"time"
)

// LimitServer counts for all proxies, by Envoy's rate limit protocol. How many requests
// it lets pass is in its own configuration. The zero value is none.
type LimitServer struct {
	Service, Address string // one of them
	TLS              *LimitServerTLS
	Domain           string
	Timeout          time.Duration
	OnFailure        FailureMode
}

// LimitServerTLS is how a server that is no service of the mesh proves who it is.
type LimitServerTLS struct {
	CA         string // PEM
	ServerName string // empty: the host of its address
}

// FailureMode says what becomes of requests that the server says nothing of.
type FailureMode string

// The failure modes.
const (
	AllowOnFailure FailureMode = "allow"
	DenyOnFailure  FailureMode = "deny"
)

// There reports whether there is one.
func (s LimitServer) There() bool { return s.Service != "" || s.Address != "" }

// Counts reports whether the server is asked for the calls to a service. For those to
// itself it can not be.
func (s LimitServer) Counts(service string, r RateLimit) bool {
	return s.There() && r.Global() && s.Service != service
}

// limitServer reads who counts.
func (d *decoder) limitServer(s *mapping, m *Mesh) {
	if !s.present() {
		return
	}
	to := &m.LimitServer
	limitServerKeys.defaults(to)
	to.Domain = m.Name
	limitServerKeys.read(s, to)
	if tls := s.section("tls"); tls.present() {
		to.TLS = &LimitServerTLS{}
		limitServerTLSKeys.read(tls, to.TLS)
	}
	switch {
	case !s.has("service") && !s.has("address"):
		s.fail(CodeMissing, "service: limits, or address: 10.0.0.9:8081", "says neither which service it is, nor at what address")
	case s.has("service") && s.has("address"):
		s.keyOf("address").fail(CodeConflict, "leave one of them out", "service says where the server is already")
	case s.has("service") && s.has("tls"):
		s.keyOf("tls").fail(CodeNoEffect, "", "has no effect: a service of the mesh is called as security.mtls says")
	}
}

// checkLimitServer looks whether the server can be called by gRPC.
func (d *decoder) checkLimitServer(s *mapping, m *Mesh) {
	name := m.LimitServer.Service
	if name == "" {
		return
	}
	if p := m.Service(name).Protocol; p != GRPC && p != HTTP2 {
		s.first("service").fail(CodeConflict, "services."+name+".protocol: grpc", "%s speaks %s, and a server of limits is called by gRPC", name, p)
	}
}

// checkCounted looks whether somebody counts what a section says is counted by a server.
func checkCounted(service string, limit *mapping, m *Mesh) {
	per, ok := limit.peek("per")
	if !ok || per.Text != string(PerGlobal) {
		return
	}
	switch {
	case !m.LimitServer.There():
		limit.first("per").fail(CodeMissing, KeyLimitServer+": {service: limits}", "there is no server that counts: %s is missing", KeyLimitServer)
	case service != "" && service == m.LimitServer.Service:
		limit.first("per").fail(CodeConflict, "per: service", "%s is the server of limits, and cannot be asked for the calls to itself", service)
	}
}

// certificates are one or more, as PEM.
func certificates() parser[string] {
	return checked("PEM certificates", "-----BEGIN CERTIFICATE-----", CodeValue, func(v value, text string) bool {
		n := 0
		for block, rest := pem.Decode([]byte(text)); block != nil; block, rest = pem.Decode(rest) {
			if _, err := x509.ParseCertificate(block.Bytes); block.Type != "CERTIFICATE" || err != nil {
				v.fail(CodeValue, "certificates alone, as PEM", "has a block %q that is no certificate", block.Type)
				return false
			}
			n++
		}
		if n == 0 {
			v.fail(CodeValue, "-----BEGIN CERTIFICATE-----", "has no certificate in it")
		}
		return n > 0
	})
}
