package translate

import (
	"net/netip"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	limitconfigv3 "github.com/envoyproxy/go-control-plane/envoy/config/ratelimit/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	globallimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ratelimit/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"

	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/resource"
)

// filterGlobalRateLimit is the filter that asks a server whether a request is too much.
const filterGlobalRateLimit = "controlplane.ratelimit.global"

const (
	limitServerConnectTimeout = time.Second
	limitServerIdleTimeout    = 5 * time.Minute
)

// urlPath is a path as policies see it, without its query.
const urlPath = "request.url_path"

// counted is a service whose requests a server counts. The zero value is none.
type counted struct {
	service    string
	by         policy.LimitServer
	identified bool // callers have certificates
}

func (c counted) on() bool { return c.service != "" }

// cluster is the server's.
func (c counted) cluster() string {
	if c.by.Service != "" {
		return c.by.Service
	}
	return resource.ClusterMeshRateLimit
}

// authority is for a proxy before the server, which may look at it.
func (c counted) authority() string {
	if c.by.Service != "" {
		return c.by.Service
	}
	return c.by.Address
}

// globalRateLimit tells the server whose request it is, four times: of whom and for what
// there are limits, it knows. An Envoy asks it once a request, of all of them.
func globalRateLimit(d *builder, of counted, r policy.RateLimit) *globallimitv3.RateLimit {
	service := &routev3.RateLimit_Action{ActionSpecifier: &routev3.RateLimit_Action_GenericKey_{
		GenericKey: &routev3.RateLimit_Action_GenericKey{DescriptorKey: "service", DescriptorValue: of.service},
	}}
	caller, path := evaluated(d, "caller", callerOf), evaluated(d, "path", urlPath)
	all := &corev3.RuntimeFractionalPercent{DefaultValue: fraction(100)}
	limit := &globallimitv3.RateLimit{
		StatPrefix: "mesh",
		Domain:     of.by.Domain,
		Timeout:    duration(of.by.Timeout),
		RateLimitService: &limitconfigv3.RateLimitServiceConfig{
			TransportApiVersion: corev3.ApiVersion_V3,
			GrpcService: &corev3.GrpcService{TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{
				EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{ClusterName: of.cluster(), Authority: of.authority()},
			}},
		},
		RateLimits: []*routev3.RateLimit{
			{Actions: []*routev3.RateLimit_Action{service}},
			{Actions: []*routev3.RateLimit_Action{service, path}},
		},
		FailureModeDeny:                of.by.OnFailure == policy.DenyOnFailure,
		StatusOnError:                  &typev3.HttpStatus{Code: typev3.StatusCode_ServiceUnavailable},
		RateLimitedStatus:              &typev3.HttpStatus{Code: typev3.StatusCode(r.Status)}, //nolint:gosec // 429 or 503
		RateLimitedAsResourceExhausted: true,
		EnableXRatelimitHeaders:        globallimitv3.RateLimit_DRAFT_VERSION_03,
		EnableRetryAfterHeader:         true,
		FilterEnabled:                  all,
		FilterEnforced:                 all,
	}
	if of.identified {
		limit.RateLimits = append(limit.RateLimits,
			&routev3.RateLimit{Actions: []*routev3.RateLimit_Action{service, caller}},
			&routev3.RateLimit{Actions: []*routev3.RateLimit_Action{service, caller, path}},
		)
	}
	if r.Mode == policy.Shadow {
		limit.FilterEnforced = &corev3.RuntimeFractionalPercent{DefaultValue: fraction(0)}
		// Without these two an answer would say that it is none.
		limit.EnableXRatelimitHeaders = globallimitv3.RateLimit_OFF
		limit.DisableXEnvoyRatelimitedHeader = true
		limit.FailureModeDeny = false
	}
	return limit
}

// limitServerOf is the cluster of a server that is no service of the mesh; nil if there
// is none. A server that is away must not hold back the start of an Envoy.
func limitServerOf(c *compiler) (*resource.Resource, error) {
	if c.limits.Address == "" {
		return nil, nil
	}
	host, port, err := splitEndpoint(c.limits.Address, 0)
	if err != nil {
		return nil, err
	}
	var d builder
	kind := clusterv3.Cluster_STRICT_DNS
	if _, err := netip.ParseAddr(host); err == nil {
		kind = clusterv3.Cluster_STATIC
	}
	cluster := &clusterv3.Cluster{
		Name:                          resource.ClusterMeshRateLimit,
		ClusterDiscoveryType:          &clusterv3.Cluster_Type{Type: kind},
		ConnectTimeout:                duration(limitServerConnectTimeout),
		PerConnectionBufferLimitBytes: u32(connectionBuffer),
		LoadBalancingPolicy:           loadBalancing(&d, c, lbKey{policy: "least_request"}),
		CircuitBreakers:               noCircuitBreakers(),
		WaitForWarmOnInit:             boolean(false),
		LoadAssignment:                fixedAssignment(resource.ClusterMeshRateLimit, host, port),
		UpstreamConnectionOptions:     tcpKeepalive(),
		TypedExtensionProtocolOptions: httpOptions(&d, c, http2, responseAtCaller, limitServerIdleTimeout),
	}
	if tls := c.limits.TLS; tls != nil {
		cluster.TransportSocket = limitServerTLS(&d, tls, host)
	}
	return d.finish(resource.Cluster, resource.ClusterMeshRateLimit, cluster, []string{policy.KeyLimitServer}, nil)
}

// limitServerTLS wants the server to have a certificate of its name, from a root of the
// file's.
func limitServerTLS(d *builder, tls *policy.LimitServerTLS, host string) *corev3.TransportSocket {
	name := tls.ServerName
	if name == "" {
		name = host
	}
	san := &tlsv3.SubjectAltNameMatcher{SanType: tlsv3.SubjectAltNameMatcher_DNS, Matcher: exact(name)}
	upstream := &tlsv3.UpstreamTlsContext{Sni: name, MaxSessionKeys: u32(0)}
	if _, err := netip.ParseAddr(name); err == nil {
		san.SanType, upstream.Sni = tlsv3.SubjectAltNameMatcher_IP_ADDRESS, ""
	}
	upstream.CommonTlsContext = &tlsv3.CommonTlsContext{
		AlpnProtocols: []string{"h2"},
		ValidationContextType: &tlsv3.CommonTlsContext_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{
			TrustedCa:                 inline([]byte(tls.CA)),
			MatchTypedSubjectAltNames: []*tlsv3.SubjectAltNameMatcher{san},
		}},
	}
	return tlsSocket(d, upstream)
}
