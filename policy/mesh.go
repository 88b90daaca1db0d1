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
	LimitServer   LimitServer
	Edits         Edits
	Routes        int // how many there are; see Service

	// Warnings are what an operator should know of a file that loads.
	Warnings []Problem

	services map[string]*Service // those that the file mentions
	defaults *Service            // the settings of every other service
	keys     map[string]Source   // where each key of the merged file was written
}

// Edits is how an edit of the file comes to the proxies.
type Edits struct {
	Waves bool          // bit by bit
	Bake  time.Duration // how long a wave has it before the next
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
	Datacenters                    []string // others whose instances are read too
	Port                           uint16
	Fallbacks                      []string // host:port of others of the datacenter
	TokenFile                      string
	TLS                            ConsulTLS
	Consistency                    string // "stale" (default), "default", "consistent"
	RegisterInterval               time.Duration
	DeregisterCriticalServiceAfter time.Duration
	Register                       Register
	Removals                       Removals
	Select                         Select
}

// Select is which part of what Consul has is in the mesh.
type Select struct {
	Tags        []string // that an instance has, all of them
	Exclude     []string // services; `*` for any part of a name
	OnlyPassing bool
}

// Removals is how long it is doubted that instances are gone which the catalog does not
// have any more.
type Removals struct {
	Confirm, Connected, Restored, Reconnect time.Duration
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
	HTTP, TCP, GRPC   string // one of them
	By                string // "agent": Consul's, which has the instance then; else the control plane
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
	Root         string        // "sha256:…" of the root that the mesh has; empty: not said
	CA           CA
}

// CAProvider says whose the authority is.
type CAProvider string

// The providers. What is CAFiles' is the operator's: it is read alone.
const (
	CABuiltin CAProvider = "builtin"
	CAFiles   CAProvider = "files"
)

// CA is where the authority is: in the data directory, or in these files.
type CA struct {
	Provider          CAProvider
	CertFile, KeyFile string // both or neither
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
	// ExplainDenials has a denied caller told the name of the policy.
	ExplainDenials bool
	Policies       []AuthorizationPolicy
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
	Invert  bool // of routes: what it does not match
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

	Subsets       []Subset // by name
	DefaultSubset string   // empty: all instances
	OnEmptySubset OnEmpty
	Routes        []Route // to it; the first that matches decides
	// Fallbacks are the subsets with somebody behind them, for so many tries.
	Fallbacks     []string
	FallbackTries uint32

	CircuitBreakers  CircuitBreakers
	OutlierDetection OutlierDetection
	HealthChecks     *HealthChecks // nil: no active checks
	AppCheck         *AppCheck     // nil: the application is not checked
	LoadBalancing    LoadBalancing
	Retry            Retry
	Timeout          Timeout
	RateLimit        RateLimit // of the calls to it
	AdmissionControl AdmissionControl

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
	RetryBudget                                                 RetryBudget // unless it is set, MaxRetries holds
}

// RetryBudget bounds the retries at one time by the requests at that time.
type RetryBudget struct {
	Set            bool // a budget of zero allows no retries, no budget leaves them to MaxRetries
	Percent        float64
	MinConcurrency uint32 // so many retries at one time there may always be
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

// AppCheck is the check of an application by what stands beside it: exactly one of
// Path, TCP and GRPC is set.
type AppCheck struct {
	Path                                 string // of an HTTP check
	TCP, GRPC                            bool
	Timeout, Interval                    time.Duration
	UnhealthyThreshold, HealthyThreshold uint32
}

// ReportInterval is how often what is beside the application says what its checks
// came to.
func (c *AppCheck) ReportInterval() time.Duration {
	return min(max(c.Interval/2, time.Second), 5*time.Second)
}

// LoadBalancing is how a proxy picks an instance.
type LoadBalancing struct {
	Policy         string // least_request, round_robin, random, ring_hash, maglev
	HashPolicy     []HashPolicy
	PanicThreshold float64 // percent
	Locality       Locality
	SlowStart      SlowStart
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
	RetryAfter                time.Duration // the longest wait that an answer may ask for; 0: it is not heard
	Conditions                []string
	Methods                   []string // empty: every method
	StatusCodes               []uint32
	HostSelection             HostSelection
	MaxBodyBytes              uint32 // a larger body is not tried again
}

// HostSelection says which instances a retry may go to.
type HostSelection string

// PreviousHosts leaves out those that have failed, as long as there are others.
const (
	PreviousHosts HostSelection = "previous_hosts"
	AnyHost       HostSelection = "any"
)

// Timeout bounds connections and requests.
type Timeout struct {
	Connect time.Duration
	Idle    time.Duration
	Request *time.Duration // nil: long enough for every retry; 0: none
	// RequestOfRoute: it is a route's own, and holds for gRPC too.
	RequestOfRoute bool
	StreamIdle     time.Duration // outbound
	MaxStream      time.Duration // of a stream, however busy; 0: none
	AppIdle        time.Duration // of connections to the application alone
	// MaxConnection is the age at which a TCP connection is cut; 0: never.
	MaxConnection time.Duration
}
