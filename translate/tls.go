package translate

import (
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	rawbufferv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/raw_buffer/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/resource"
)

// tlsMode is what sidecars speak between each other.
type tlsMode uint8

const (
	tlsOff        tlsMode = iota
	tlsPermissive         // mTLS to peers that are in the mesh, plaintext to and from the others
	tlsStrict
)

// sds refers to a secret over the proxy's own ADS stream. The bytes are the
// same wherever one secret is named: of two references to one name that differ,
// Envoy leaves one waiting for ever.
func sds(name string) *tlsv3.SdsSecretConfig {
	return &tlsv3.SdsSecretConfig{
		Name:      name,
		SdsConfig: adsUntilThere(),
	}
}

// tls13 demands TLS 1.3, which also hides the certificates from the wire.
func tls13() *tlsv3.TlsParameters {
	return &tlsv3.TlsParameters{
		TlsMinimumProtocolVersion: tlsv3.TlsParameters_TLSv1_3,
		TlsMaximumProtocolVersion: tlsv3.TlsParameters_TLSv1_3,
	}
}

// peer accepts certificates of the mesh's roots whose URI matches.
func peer(uri *matcherv3.StringMatcher) *tlsv3.CommonTlsContext_CombinedValidationContext {
	return &tlsv3.CommonTlsContext_CombinedValidationContext{
		CombinedValidationContext: &tlsv3.CommonTlsContext_CombinedCertificateValidationContext{
			DefaultValidationContext: &tlsv3.CertificateValidationContext{
				MatchTypedSubjectAltNames: []*tlsv3.SubjectAltNameMatcher{uriSAN(uri)},
			},
			ValidationContextSdsSecretConfig: sds(resource.SecretRoots),
		},
	}
}

func uriSAN(m *matcherv3.StringMatcher) *tlsv3.SubjectAltNameMatcher {
	return &tlsv3.SubjectAltNameMatcher{SanType: tlsv3.SubjectAltNameMatcher_URI, Matcher: m}
}

// upstreamTLS is how a proxy dials a service: with its own identity, and only
// to the identity of that service. Sessions are not resumed, since a resumed
// one is not checked against the newest roots.
func upstreamTLS(d *builder, identity string, alpn ...string) *corev3.TransportSocket {
	return tlsSocket(d, &tlsv3.UpstreamTlsContext{
		CommonTlsContext: &tlsv3.CommonTlsContext{
			TlsParams:                      tls13(),
			TlsCertificateSdsSecretConfigs: []*tlsv3.SdsSecretConfig{sds(resource.SecretIdentity)},
			ValidationContextType:          peer(exact(identity)),
			AlpnProtocols:                  alpn,
		},
		MaxSessionKeys: u32(0),
	})
}

// downstreamTLS is how a proxy takes calls over HTTP: from anybody of the
// mesh; who may call what is the RBAC filters' to say.
func downstreamTLS(d *builder, identities string) *corev3.TransportSocket {
	return tlsSocket(d, &tlsv3.DownstreamTlsContext{
		CommonTlsContext: &tlsv3.CommonTlsContext{
			TlsParams:                      tls13(),
			TlsCertificateSdsSecretConfigs: []*tlsv3.SdsSecretConfig{sds(resource.SecretIdentity)},
			ValidationContextType:          peer(prefix(identities)),
			AlpnProtocols:                  []string{"h2", "http/1.1"},
		},
		RequireClientCertificate:         boolean(true),
		SessionTicketKeysType:            &tlsv3.DownstreamTlsContext_DisableStatelessSessionResumption{DisableStatelessSessionResumption: true},
		DisableStatefulSessionResumption: true,
	})
}

// callersTLS is how a proxy takes TCP connections: from the callers that the
// secret names. There is no later place to refuse one, because a server that
// speaks first has spoken by then.
func callersTLS(d *builder, service string) *corev3.TransportSocket {
	return tlsSocket(d, &tlsv3.DownstreamTlsContext{
		CommonTlsContext: &tlsv3.CommonTlsContext{
			TlsParams:                      tls13(),
			TlsCertificateSdsSecretConfigs: []*tlsv3.SdsSecretConfig{sds(resource.SecretIdentity)},
			ValidationContextType: &tlsv3.CommonTlsContext_ValidationContextSdsSecretConfig{
				ValidationContextSdsSecretConfig: sds(resource.SecretCallers(service)),
			},
		},
		RequireClientCertificate:         boolean(true),
		SessionTicketKeysType:            &tlsv3.DownstreamTlsContext_DisableStatelessSessionResumption{DisableStatelessSessionResumption: true},
		DisableStatefulSessionResumption: true,
	})
}

func tlsSocket(d *builder, m message) *corev3.TransportSocket {
	return &corev3.TransportSocket{
		Name:       "envoy.transport_sockets.tls",
		ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: d.pack(m)},
	}
}

func plaintextSocket(d *builder) *corev3.TransportSocket {
	return &corev3.TransportSocket{
		Name:       "envoy.transport_sockets.raw_buffer",
		ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: d.pack(&rawbufferv3.RawBuffer{})},
	}
}

// rootsSecret is the secret ROOTCA.
func rootsSecret(roots []byte) (*resource.Resource, error) {
	var d builder
	return d.finish(resource.Secret, resource.SecretRoots, &tlsv3.Secret{
		Name: resource.SecretRoots,
		Type: &tlsv3.Secret_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{TrustedCa: inline(roots)}},
	}, []string{policy.KeyMTLS}, nil)
}

func inline(b []byte) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: b}}
}

func exact(s string) *matcherv3.StringMatcher {
	return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: s}}
}

func prefix(s string) *matcherv3.StringMatcher {
	return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: s}}
}

func suffix(s string) *matcherv3.StringMatcher {
	return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Suffix{Suffix: s}}
}

// regex matches the whole string: Envoy anchors its expressions at both ends.
func regex(s string) *matcherv3.StringMatcher {
	return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: s}}}
}
