package sds

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// check decides whether a certificate may leave. Envoy acknowledges an expired
// certificate, or one with a key that it cannot use, and then fails every
// handshake; so what is wrong must be found here.
func (c *CA) check(s *svid, now time.Time) error {
	parsed, err := x509svid.ParseRaw(slices.Concat(append([][]byte{s.cert}, s.issuer.chain()...)...), s.key)
	if err != nil {
		return err // also a key that is not the certificate's
	}
	if parsed.ID != s.id {
		return fmt.Errorf("its identity is %s", parsed.ID)
	}
	leaf := parsed.Certificates[0]
	if err := checkLeaf(leaf, s.names); err != nil {
		return err
	}
	switch {
	case now.Before(leaf.NotBefore):
		return fmt.Errorf("it is valid from %s", leaf.NotBefore.Format(time.RFC3339))
	case !now.Before(leaf.NotAfter):
		return fmt.Errorf("it expired at %s", leaf.NotAfter.Format(time.RFC3339))
	case leaf.NotAfter.After(s.issuer.ends):
		return errors.New("it outlives its issuer, or one above that")
	case !bytes.Equal(leaf.AuthorityKeyId, s.issuer.cert.SubjectKeyId):
		return errors.New("its authority key identifier is not its issuer's")
	}
	_, _, err = x509svid.Verify(parsed.Certificates, c.roots.Load().bundle, x509svid.WithTime(now))
	return err
}

// checkLeaf checks what go-spiffe leaves open.
func checkLeaf(leaf *x509.Certificate, names serverNames) error {
	key, ok := leaf.PublicKey.(*ecdsa.PublicKey)
	switch {
	case !ok || key.Curve != elliptic.P256():
		return errors.New("its key is not on P-256")
	case leaf.SignatureAlgorithm != x509.ECDSAWithSHA256:
		return fmt.Errorf("it is signed with %s", leaf.SignatureAlgorithm)
	case !names.equal(serverNames{leaf.DNSNames, leaf.IPAddresses}) || len(leaf.EmailAddresses) > 0:
		return errors.New("it has a SAN besides its URI")
	case len(leaf.Subject.Names) > 0:
		return fmt.Errorf("its subject is not empty: %s", leaf.Subject)
	case !leaf.BasicConstraintsValid || leaf.IsCA:
		return errors.New("its basic constraints are missing, or those of an authority")
	case leaf.KeyUsage != x509.KeyUsageDigitalSignature:
		return errors.New("its key usage is not digitalSignature alone")
	case !slices.Equal(leaf.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}):
		return errors.New("its extended key usage is not serverAuth and clientAuth")
	case len(leaf.SubjectKeyId) == 0:
		return errors.New("it has no subject key identifier")
	case len(leaf.UnhandledCriticalExtensions) > 0:
		return errors.New("it has a critical extension that is not known")
	}
	return nil
}
