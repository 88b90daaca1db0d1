package sidecar

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/sds/token"
)

// retryStream bounds the wait for the next stream: a certificate that runs out
// must not wait for minutes.
const retryStream = 30 * time.Second

// svidAgent begins like the user agents of gRPC's own xDS clients, by which a
// control plane tells whoever has no Envoy.
const svidAgent = "gRPC SVID files"

// SVIDLoop keeps the SVID of a client without an Envoy in files: it takes over
// SDS what an Envoy would.
type SVIDLoop struct {
	// Addresses of control planes, HOST:PORT or unix:PATH, tried in turn.
	Addresses []string
	// CAPEM is the root that the control planes' certificates must chain to; its
	// URI SAN says which trust domain they are of.
	CAPEM []byte
	// TokenFile holds the token, in either form. It is read for each stream.
	TokenFile string
	// Dir gets the files, see [identity.SVIDFile]. It is made if it is not there.
	Dir string
	// Log gets each renewal and each failure, never a key; it is required.
	Log *slog.Logger
}

// Run follows the client's SVID until the context ends. Failures are tried
// again, and the files stay as they are meanwhile; only a token file that
// cannot be read at the start is an error.
func (l *SVIDLoop) Run(ctx context.Context) error {
	creds, err := controlPlaneCredentials(l.CAPEM)
	if err != nil {
		return err
	}
	if _, _, err := token.ReadFile(l.TokenFile); err != nil {
		return err
	}
	if len(l.Addresses) == 0 {
		return errors.New("no address of a control plane")
	}
	failures := 0
	for i := 0; ; i++ {
		address := l.Addresses[i%len(l.Addresses)]
		wrote, err := l.follow(ctx, address, creds)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // ended from outside, which is no failure
		}
		if wrote {
			failures = 0
		}
		wait := retryAfter(failures, retryStream)
		failures++
		l.Log.Warn("the stream of the certificate ended", "control_plane", address, "retry_in", wait, "error", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

// follow has one stream, to its end. It reports whether files were written.
func (l *SVIDLoop) follow(ctx context.Context, address string, creds credentials.TransportCredentials) (wrote bool, err error) {
	raw, _, err := token.ReadFile(l.TokenFile)
	if err != nil {
		return false, err
	}
	id, node, err := token.Holder(raw)
	if err != nil {
		return false, fmt.Errorf("token file %s: %w", l.TokenFile, err)
	}
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(creds), grpc.WithNoProxy(),
		// A control plane that is gone without a word is noticed within a minute.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}))
	if err != nil {
		return false, err
	}
	defer conn.Close() //nolint:errcheck // the stream is over
	ctx, cancel := context.WithCancel(token.NewContext(ctx, raw))
	defer cancel()
	stream, err := secretv3.NewSecretDiscoveryServiceClient(conn).StreamSecrets(ctx)
	if err != nil {
		return false, err
	}
	request := &discoveryv3.DiscoveryRequest{
		Node:    &corev3.Node{Id: node, Cluster: strings.TrimPrefix(id.Path(), "/"), UserAgentName: svidAgent},
		TypeUrl: resource.Secret.URL(), ResourceNames: []string{resource.SecretIdentity, resource.SecretRoots},
	}
	var have svidFiles
	for {
		if err := stream.Send(request); err != nil {
			_, err = stream.Recv() // says why
			return wrote, err
		}
		r, err := stream.Recv()
		if err != nil {
			return wrote, err
		}
		request = &discoveryv3.DiscoveryRequest{
			TypeUrl: resource.Secret.URL(), ResourceNames: request.ResourceNames, VersionInfo: request.VersionInfo, ResponseNonce: r.GetNonce(),
		}
		next := have
		expires, err := next.take(r, id)
		if err == nil && !expires.IsZero() {
			err = writeSVID(l.Dir, next)
		}
		if err != nil {
			l.Log.Error("a certificate was refused", "control_plane", address, "error", err)
			request.ErrorDetail = &statuspb.Status{Code: int32(codes.InvalidArgument), Message: err.Error()}
			continue
		}
		have, request.VersionInfo = next, r.GetVersionInfo()
		if !expires.IsZero() {
			wrote = true
			l.Log.Info("wrote the certificate", "dir", l.Dir, "id", id.String(), "expires", expires)
		}
	}
}

// take adds the secrets of a response. Once all are there it checks them
// together and returns when the certificate expires.
func (f *svidFiles) take(r *discoveryv3.DiscoveryResponse, id spiffeid.ID) (expires time.Time, err error) {
	for _, any := range r.GetResources() {
		secret := new(tlsv3.Secret)
		if err := any.UnmarshalTo(secret); err != nil {
			return expires, err
		}
		switch secret.GetName() {
		case resource.SecretIdentity:
			f.chain = secret.GetTlsCertificate().GetCertificateChain().GetInlineBytes()
			f.key = secret.GetTlsCertificate().GetPrivateKey().GetInlineBytes()
		case resource.SecretRoots:
			f.bundle = secret.GetValidationContext().GetTrustedCa().GetInlineBytes()
		}
	}
	if f.chain == nil || f.bundle == nil {
		return expires, nil
	}
	svid, err := x509svid.Parse(f.chain, f.key)
	if err != nil {
		return expires, err
	}
	if svid.ID != id {
		return expires, fmt.Errorf("the certificate is of %s", svid.ID)
	}
	bundle, err := x509bundle.Parse(id.TrustDomain(), f.bundle)
	if err != nil {
		return expires, err
	}
	if _, _, err := x509svid.Verify(svid.Certificates, bundle); err != nil {
		return expires, err
	}
	return svid.Certificates[0].NotAfter, nil
}
