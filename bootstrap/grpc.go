package bootstrap

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"

	"datapunk.dev/controlplane/sds/identity"
)

// GRPCOptions describe a process that calls services by gRPC's own xDS client,
// without an Envoy. Paths are absolute.
type GRPCOptions struct {
	Service string // as which it calls
	NodeID  string // unique in the mesh

	Region, Zone, SubZone string // where it is, each optional

	// XDSAddresses are the control planes, HOST:PORT or unix:PATH. The first is
	// used while it answers, then the next.
	XDSAddresses []string
	// CAFile has the root that their certificates must chain to, TokenFile the
	// client's token as it is, see [token.WriteFile]. Plaintext stands instead
	// of both.
	CAFile    string
	TokenFile string
	Plaintext bool
	// SVIDDir has the client's certificate for the services that it calls, in the
	// files that [sidecar.SVIDLoop] writes. Empty: they are called in plaintext.
	SVIDDir string
}

// certificateRefresh is how often the client looks at its files. Certificates
// are renewed with hours in hand.
const certificateRefresh = "60s"

// The format of gRFC A27, with the parts of A29 (certificate providers), A65
// (TLS to the control plane) and A97 (the token).
type (
	grpcBootstrap struct {
		XDSServers           []grpcServer            `json:"xds_servers"`
		Node                 grpcNode                `json:"node"`
		CertificateProviders map[string]grpcProvider `json:"certificate_providers,omitempty"`
	}
	grpcServer struct {
		ServerURI    string      `json:"server_uri"`
		ChannelCreds []grpcCreds `json:"channel_creds"`
		CallCreds    []grpcCreds `json:"call_creds,omitempty"`
		Features     []string    `json:"server_features"`
	}
	grpcCreds struct {
		Type   string            `json:"type"`
		Config map[string]string `json:"config,omitempty"`
	}
	grpcNode struct {
		ID       string        `json:"id"`
		Cluster  string        `json:"cluster"`
		Locality *grpcLocality `json:"locality,omitempty"`
	}
	grpcLocality struct {
		Region  string `json:"region,omitempty"`
		Zone    string `json:"zone,omitempty"`
		SubZone string `json:"sub_zone,omitempty"`
	}
	grpcProvider struct {
		PluginName string            `json:"plugin_name"`
		Config     map[string]string `json:"config"`
	}
)

// certificateProvider is the name by which the control plane refers to the
// client's certificates.
const certificateProvider = "default"

// GRPC returns the bootstrap of a gRPC client as JSON. There is no secret in
// it. Two calls with the same options return equal bytes.
func GRPC(o GRPCOptions) ([]byte, error) {
	addresses, err := o.check()
	if err != nil {
		return nil, err
	}
	b := grpcBootstrap{Node: grpcNode{ID: o.NodeID, Cluster: o.Service}}
	if at := (grpcLocality{o.Region, o.Zone, o.SubZone}); at != (grpcLocality{}) {
		b.Node.Locality = &at
	}
	for i, a := range addresses {
		server := grpcServer{ServerURI: o.XDSAddresses[i], ChannelCreds: []grpcCreds{{Type: "insecure"}}, Features: []string{"xds_v3"}}
		if a.socket != "" {
			server.ServerURI = "unix://" + a.socket
		}
		if !o.Plaintext {
			server.ChannelCreds = []grpcCreds{{"tls", map[string]string{"ca_certificate_file": o.CAFile, "refresh_interval": certificateRefresh}}}
			server.CallCreds = []grpcCreds{{"jwt_token_file", map[string]string{"jwt_token_file": o.TokenFile}}}
		}
		b.XDSServers = append(b.XDSServers, server)
	}
	if o.SVIDDir != "" {
		b.CertificateProviders = map[string]grpcProvider{certificateProvider: {"file_watcher", map[string]string{
			"certificate_file":    filepath.Join(o.SVIDDir, identity.SVIDFile),
			"private_key_file":    filepath.Join(o.SVIDDir, identity.SVIDKeyFile),
			"ca_certificate_file": filepath.Join(o.SVIDDir, identity.BundleFile),
			"refresh_interval":    certificateRefresh,
		}}}
	}
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(b); err != nil {
		return nil, fmt.Errorf("render bootstrap: %w", err)
	}
	return out.Bytes(), nil
}

// check reports everything that is wrong at once.
func (o *GRPCOptions) check() ([]address, error) {
	var errs []error
	if err := checkService(o.Service); err != nil {
		errs = append(errs, err)
	}
	if o.NodeID == "" {
		errs = append(errs, errors.New("the node id is empty"))
	}
	addresses, err := parseAddresses(o.XDSAddresses)
	if err != nil {
		errs = append(errs, err)
	}
	if o.Plaintext {
		if o.CAFile != "" || o.TokenFile != "" || o.SVIDDir != "" {
			errs = append(errs, errors.New("plaintext excludes a CA, a token and certificates: they would protect nothing"))
		}
		return addresses, errors.Join(append(errs, checkPlaintext(addresses)...)...)
	}
	for _, p := range []struct {
		what, path string
		optional   bool
	}{{"CA file", o.CAFile, false}, {"token file", o.TokenFile, false}, {"SVID directory", o.SVIDDir, true}} {
		switch {
		case p.path == "" && !p.optional:
			errs = append(errs, fmt.Errorf("no %s", p.what))
		case p.path != "" && !filepath.IsAbs(p.path):
			errs = append(errs, fmt.Errorf("%s %q is not an absolute path", p.what, p.path))
		}
	}
	return addresses, errors.Join(errs...)
}
