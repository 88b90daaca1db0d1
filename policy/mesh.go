package policy

import "time"

// Mesh is the operators' file, loaded, expanded, merged and checked. It is
// immutable and shared by pointer.
type Mesh struct {
	Name        string
	Version     string
	Environment string // the environment merged in, or empty
	Revision    string // hash of the contents of the files, shown to operators
	Files       []File // what it was made of

	Discovery     Discovery
	Tracing       Tracing
	Metrics       Metrics
	AccessLogs    AccessLogs
	MTLS          MTLS
	Authorization Authorization

	// Warnings are what an operator should know of a file that loads.
	Warnings []Problem

	services map[string]*Service // those that the file mentions
	defaults *Service            // the settings of every other service
	keys     map[string]Source   // where each key of the merged file was written
}

// Discovery says where the catalog is.
type Discovery struct {
	Method   string // "consul" or "file"
	File     string // the catalog's path for method file
	Register bool   // connected proxies are added to a catalog in a file
	Consul   Consul
}

// Consul is how to reach the catalog in Consul, and how to register in it.
type Consul struct {
	Host, Datacenter, Scheme       string
	Port                           uint16
	TokenFile                      string
	TLS                            ConsulTLS
	Consistency                    string // "stale" (default), "default", "consistent"
	RegisterInterval               time.Duration
	DeregisterCriticalServiceAfter time.Duration
	Register                       Register
}

// Register is what is registered in Consul.
type Register struct {
	Enabled      bool // what follows, and the connected proxies
	ControlPlane bool // each replica of the control plane
	Services     []RegisteredService
}

// RegisteredService is an instance that the mesh file registers.
type RegisteredService struct {
	Name, ID, Address string
	Port              uint16
	Tags              []string
	Meta              map[string]string
	Check             *RegisteredCheck // nil: it is passing
}

// RegisteredCheck is how the health of such an instance is found out.
type RegisteredCheck struct {
	HTTP, TCP         string // one of both
	Interval, Timeout time.Duration
}

// ConsulTLS is the TLS material for scheme https.
type ConsulTLS struct {
	CAFile, CertFile, KeyFile, ServerName string
}

// Tracing is how proxies report spans.
type Tracing struct {
	Enabled      bool
	Provider     string  // "jaeger" or "otlp" (both OTLP over gRPC), "zipkin"
	Endpoint     string  // host:port; empty: the catalog's service
	Service      string  // the catalog's service when Endpoint is empty; default "jaeger"
	SamplingRate float64 // 0 to 1
	Tags         []Tag
}

// Tag is a tag of every span. When Variable is set, each proxy fills the tag
// from its own environment, and Value is the default (possibly empty).
type Tag struct {
	Key, Value, Variable string
}

// Metrics is how Prometheus scrapes the proxies.
type Metrics struct {
	Enabled        bool
	ScrapeInterval time.Duration
	Path           string
	Port           uint16 // of proxies whose metadata has none; 0: they have no listener for it
}

// AccessLogs is where proxies write their access logs.
type AccessLogs struct {
	Enabled   bool
	Path      string  // default /dev/stdout
	Format    string  // "json" or "text"
	MinStatus uint32  // 0: every status
	Sample    float64 // 0 to 1; what MinStatus drops is still logged at this ratio
}

// Mode says whether peers without a certificate are served.
type Mode string

// The modes of mTLS.
const (
	Strict     Mode = "strict"
	Permissive Mode = "permissive"
)

// MTLS is how sidecars identify each other.
type MTLS struct {
	Enabled      bool
	Mode         Mode
	TrustDomain  string
	CertRotation time.Duration // the age at which an SVID is replaced at the latest
	CertTTL      time.Duration // its lifetime
}

// Action is what an authorization policy does.
type Action string

// The actions. Audit only records.
const (
	Allow Action = "ALLOW"
	Deny  Action = "DENY"
	Audit Action = "AUDIT"
)

// Authorization is who may call whom.
type Authorization struct {
	Enabled       bool
	DefaultAction Action // Deny unless the file opts out
	Policies      []AuthorizationPolicy
}

// AuthorizationPolicy is one rule. The fields are ANDed, the values of a field
// ORed, an empty field is any. Principals and Sources are one field: either may
// match. Principals are checked: a trust domain and a path, `*` only inside the
// path. Paths end in `*` for a prefix.
type AuthorizationPolicy struct {
	Name   string
	Action Action
	Shadow bool   // mode: shadow, evaluated but not enforced
	Key    string // where it stands: security.authorization.policies[0]

	Principals, NotPrincipals     []string
	Sources, NotSources           []string // service names, in the mesh's trust domain
	Destinations, NotDestinations []string // service names
	Paths, NotPaths               []string
	Methods, NotMethods           []string
	Headers, NotHeaders           []HeaderMatch
	Ports, NotPorts               []uint16 // the application's port
}

// HeaderMatch is a condition on one header; exactly one of the others is set.
type HeaderMatch struct {
	Name    string
	Exact   *string
	Prefix  *string
	Suffix  *string
	Regex   *string
	Present *bool
}

// Protocol is what a service's application speaks.
type Protocol string

// The protocols.
const (
	HTTP  Protocol = "http"
	HTTP2 Protocol = "http2"
	GRPC  Protocol = "grpc"
	TCP   Protocol = "tcp"
)

// EncodedSlashes says what becomes of a request with one in its path.
type EncodedSlashes string

// Refuse answers 400, Keep hands the request on.
const (
	Refuse EncodedSlashes = "refuse"
	Keep   EncodedSlashes = "keep"
)

// Service is the effective settings of one service: its own, over its custom
// ones, over the defaults of the file, over the built-in ones.
type Service struct {
	Name           string
	ConsulService  string // the catalog's name
	Protocol       Protocol
	EncodedSlashes EncodedSlashes
	Upstreams      []Upstream
	AllUpstreams   bool // no upstreams declared: every service of the mesh

	CircuitBreakers  CircuitBreakers
	OutlierDetection OutlierDetection
	HealthChecks     *HealthChecks // nil: no active checks
	LoadBalancing    LoadBalancing
	Retry            Retry
	Timeout          Timeout

	keys [numSettings][]string // the keys that each setting came from, most specific first
}

// Upstream is a service that another one calls.
type Upstream struct {
	Service       string
	LocalBindPort uint16 // for TCP: where the caller's sidecar listens on loopback; 0: none
}

// CircuitBreakers are the limits of one cluster, counted in each proxy.
type CircuitBreakers struct {
	MaxConnections, MaxPendingRequests, MaxRequests, MaxRetries uint32
}

// OutlierDetection ejects instances that answer badly.
type OutlierDetection struct {
	Consecutive5xx, ConsecutiveGatewayFailure   uint32
	Interval, BaseEjectionTime, MaxEjectionTime time.Duration
	MaxEjectionPercent                          uint32
}

// HealthChecks are active checks by each proxy.
type HealthChecks struct {
	Protocol                             string // "tcp", "http" or "grpc"
	Path                                 string // for http
	Timeout, Interval                    time.Duration
	UnhealthyThreshold, HealthyThreshold uint32
}

// LoadBalancing is how a proxy picks an instance.
type LoadBalancing struct {
	Policy         string // least_request, round_robin, random, ring_hash, maglev
	HashPolicy     []HashPolicy
	PanicThreshold float64 // percent
}

// HashPolicy is what ring_hash and maglev hash; exactly one field is set.
type HashPolicy struct {
	Header   string
	Cookie   string
	SourceIP bool
}

// Retry is when and how often a request is tried again.
type Retry struct {
	Attempts                  uint32        // retries, so up to Attempts+1 tries
	Timeout                   time.Duration // of each try; 0: none
	TimeoutOfService          bool          // set in services.X: holds for gRPC too
	BaseInterval, MaxInterval time.Duration
	Conditions                []string
	Methods                   []string // empty: every method
	StatusCodes               []uint32
	MaxBodyBytes              uint32 // a larger body is not tried again
}

// Timeout bounds connections and requests.
type Timeout struct {
	Connect    time.Duration
	Idle       time.Duration
	Request    *time.Duration // nil: long enough for every retry; 0: none
	StreamIdle time.Duration  // outbound
	AppIdle    time.Duration  // of connections to the application alone
	// MaxConnection is the age at which a TCP connection is cut; 0: never.
	MaxConnection time.Duration
}
