// Package identity names who is who in a mesh: the SPIFFE IDs of services and of
// the control plane, the trust domain of a root certificate, and the files in
// which a process keeps its own. It makes no keys and no certificates.
package identity

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"datapunk.dev/controlplane/resource"
)

// The files of an SVID in a directory, by the names that SPIFFE's own helper
// gives them: the certificate with its intermediate, the key, the trust bundle.
const (
	SVIDFile    = "svid.pem"
	SVIDKeyFile = "svid_key.pem"
	BundleFile  = "svid_bundle.pem"
)

// maxIDLength is the longest SPIFFE ID that every implementation must accept
// (SPIFFE-ID section 2.3).
const maxIDLength = 2048

// ServiceID returns the identity of a service, spiffe://<trust domain>/<service>.
// Names are taken as they are or refused, never escaped: two names must not
// become one identity.
func ServiceID(trustDomain spiffeid.TrustDomain, service string) (spiffeid.ID, error) {
	if service == resource.ControlPlane {
		return spiffeid.ID{}, fmt.Errorf("service name %q is reserved", service)
	}
	id, err := spiffeid.FromSegments(trustDomain, service)
	if err != nil {
		return spiffeid.ID{}, fmt.Errorf("service name %q is no SPIFFE path segment: %w", service, err)
	}
	if n := len(id.String()); n > maxIDLength {
		return spiffeid.ID{}, fmt.Errorf("service name is too long: its SPIFFE ID has %d bytes, the limit is %d", n, maxIDLength)
	}
	return id, nil
}

// ControlPlaneID returns the identity of the control plane itself. No proxy is
// ever issued it, because proxies trust the xDS port by it.
func ControlPlaneID(trustDomain spiffeid.TrustDomain) spiffeid.ID {
	return spiffeid.RequireFromSegments(trustDomain, resource.ControlPlane)
}

// TrustDomainOf returns the trust domain of a root certificate in PEM, as the
// data directory's ca.pem holds it.
func TrustDomainOf(caPEM []byte) (spiffeid.TrustDomain, error) {
	block, _ := pem.Decode(caPEM)
	if block == nil || block.Type != "CERTIFICATE" {
		return spiffeid.TrustDomain{}, fmt.Errorf("want a PEM block %q", "CERTIFICATE")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return spiffeid.TrustDomain{}, err
	}
	return RootTrustDomain(cert)
}

// RootTrustDomain returns the URI SAN that the X.509-SVID specification wants in
// a signing certificate: the trust domain, without a path.
func RootTrustDomain(root *x509.Certificate) (spiffeid.TrustDomain, error) {
	if !root.BasicConstraintsValid || !root.IsCA {
		return spiffeid.TrustDomain{}, errors.New("not the certificate of an authority")
	}
	if len(root.URIs) != 1 {
		return spiffeid.TrustDomain{}, fmt.Errorf("want one URI SAN, the trust domain; have %d", len(root.URIs))
	}
	id, err := spiffeid.FromURI(root.URIs[0])
	if err != nil {
		return spiffeid.TrustDomain{}, err
	}
	if id.Path() != "" {
		return spiffeid.TrustDomain{}, fmt.Errorf("the URI SAN %s has a path: not a root", id)
	}
	return id.TrustDomain(), nil
}
