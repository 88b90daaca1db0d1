package sidecar

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"

	"datapunk.dev/controlplane/sds/identity"
)

// pinTime bounds the handshake by which a root is fetched.
const pinTime = 5 * time.Second

// fetchRoot returns the root with the hash, which a control plane shows in its
// handshake. Nothing is sent on that connection: it ends when the root, and that
// the peer is a control plane of it, is proven.
func fetchRoot(ctx context.Context, addresses []string, hash identity.RootHash) (caPEM []byte, err error) {
	var errs []error
	for _, address := range addresses {
		caPEM, err := fetchRootAt(ctx, address, hash)
		if err == nil {
			return caPEM, nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", address, err))
	}
	return nil, errors.Join(errs...)
}

func fetchRootAt(ctx context.Context, address string, hash identity.RootHash) (caPEM []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, pinTime)
	defer cancel()
	network, where := dialable(address)
	conn, err := (&net.Dialer{}).DialContext(ctx, network, where)
	if err != nil {
		return nil, err
	}
	defer conn.Close() //nolint:errcheck // nothing was written
	config := &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{"h2"},
		// It is verified below, by a root that is not known before.
		InsecureSkipVerify: true, //nolint:gosec // see VerifyConnection
		VerifyConnection: func(s tls.ConnectionState) error {
			root, err := rootOf(s.PeerCertificates, hash)
			if err != nil {
				return err
			}
			caPEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Raw})
			td, err := identity.RootTrustDomain(root)
			if err != nil {
				return err
			}
			raw := make([][]byte, len(s.PeerCertificates))
			for i, c := range s.PeerCertificates {
				raw[i] = c.Raw
			}
			return tlsconfig.VerifyPeerCertificate(x509bundle.FromX509Authorities(td, []*x509.Certificate{root}),
				tlsconfig.AuthorizeID(identity.ControlPlaneID(td)))(raw, nil)
		},
	}
	if err := tls.Client(conn, config).HandshakeContext(ctx); err != nil {
		return nil, err
	}
	return caPEM, nil
}

func rootOf(chain []*x509.Certificate, hash identity.RootHash) (*x509.Certificate, error) {
	for _, c := range chain {
		if sha256.Sum256(c.Raw) == hash {
			return c, nil
		}
	}
	return nil, errors.New("it shows no root with the pinned hash: it is not the control plane that is meant, or its root was replaced")
}

// dialable is an address of a control plane as package net takes it.
func dialable(address string) (network, where string) {
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		return "unix", strings.TrimPrefix(path, "//")
	}
	return "tcp", address
}
