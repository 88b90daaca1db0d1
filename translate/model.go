package translate

import (
	"reflect"
	"slices"
	"time"

	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/resource"
)

// The model stands between the settings of a service and Envoy's messages: which
// clusters there are to be, and which routes lead to them. Resources are made
// from it and from nothing else, so what is equal here is equal on the wire.

// destination is a cluster to be.
type destination struct {
	name      string // of the cluster and of its assignment
	service   string // whose identity its instances have to prove
	instances string // the catalog's service whose instances it has
	resolves  bool   // some of them are names, for each proxy to resolve

	protocol       policy.Protocol
	connectTimeout time.Duration
	idleTimeout    time.Duration
	balancing      string  // least_request, round_robin, random, ring_hash, maglev
	hashesHeader   bool    // of what is hashed, something is a header
	panicThreshold float64 // percent of healthy instances below which all are called
	breakers       policy.CircuitBreakers
	outliers       policy.OutlierDetection
	checked        bool // actively, by checks
	checks         policy.HealthChecks
}

// virtualHost is what a caller finds under the names of a service.
type virtualHost struct {
	name    string
	domains []string
	routes  []route // the first that matches decides
}

// route leads requests to destinations.
type route struct {
	name  string
	match match
	to    []weightedDestination
	span  string // the name of the spans
	begin sampling

	timeout        time.Duration // of the request with all its tries; 0: none
	callerDeadline bool          // gRPC: the caller's own holds, however long it is
	streamIdle     time.Duration // 0: a silent stream lasts
	retry          *retry        // nil: no second try
	keeps          uint64        // bytes of a body, to send it again
	hash           []policy.HashPolicy
}

// match is which requests take a route.
type match struct {
	prefix  string
	grpc    bool
	methods []string // empty: every method
	unsized bool     // there may be a body, and nobody says how large
}

// weightedDestination is a part of a route's requests.
type weightedDestination struct {
	destination string
	weight      uint32
}

// retry is when and how often a request is tried again.
type retry struct {
	on                        []string
	tooLarge                  uint64 // a body that says it is so long is not sent again; 0: any
	statuses                  []uint32
	attempts                  uint32
	perTry                    time.Duration // 0: none
	baseInterval, maxInterval time.Duration // of the back-off
}

// destinationsOf are the clusters that a service is to have.
func destinationsOf(s *policy.Service) []destination {
	d := destination{
		name:           s.Name,
		service:        s.Name,
		instances:      s.ConsulService,
		protocol:       s.Protocol,
		connectTimeout: s.Timeout.Connect,
		idleTimeout:    s.Timeout.Idle,
		balancing:      s.LoadBalancing.Policy,
		hashesHeader:   slices.ContainsFunc(s.LoadBalancing.HashPolicy, func(h policy.HashPolicy) bool { return h.Header != "" }),
		panicThreshold: s.LoadBalancing.PanicThreshold,
		breakers:       s.CircuitBreakers,
		outliers:       s.OutlierDetection,
	}
	if s.HealthChecks != nil {
		d.checked, d.checks = true, *s.HealthChecks
	}
	return []destination{d}
}

// virtualHostOf is how callers reach a service over HTTP; nil for one that does
// not speak it. gRPC's routes come first, then those of ordinary requests. Where
// the file names the methods that may be tried again, each has a route with
// retries for these and one without for the rest.
func virtualHostOf(s *policy.Service, begin sampling) *virtualHost {
	if s.Protocol == policy.TCP {
		return nil
	}
	whole := route{
		to:         []weightedDestination{{s.Name, 100}},
		match:      match{prefix: "/"},
		span:       s.Name,
		begin:      begin,
		streamIdle: s.Timeout.StreamIdle,
		hash:       s.LoadBalancing.HashPolicy,
	}
	grpc, rest := whole, whole
	grpc.name, grpc.match.grpc, grpc.callerDeadline, grpc.retry = s.Name+"-grpc", true, true, grpcRetry(s.Retry)
	grpc.keeps = max(grpcMessage, uint64(s.Retry.MaxBodyBytes))
	rest.name, rest.timeout = s.Name, routeTimeout(s.Timeout, s.Retry)
	rest.retry = httpRetry(s.Retry, rest.timeout)
	rest.keeps = uint64(s.Retry.MaxBodyBytes)

	routes := []route{grpc}
	if rest.retry != nil && afterWork(s.Retry) {
		unsized := rest
		unsized.name, unsized.match.unsized = s.Name+"-unsized", true
		unsized.retry = httpRetry(beforeWork(s.Retry), rest.timeout)
		routes = append(routes, unsized)
	}
	host := &virtualHost{name: s.Name, domains: []string{s.Name, s.Name + resource.HostSuffix}}
	for _, r := range append(routes, rest) {
		if len(s.Retry.Methods) > 0 && r.retry != nil {
			limited := r
			limited.match.methods = s.Retry.Methods
			host.routes = append(host.routes, limited)
			if r.match.unsized {
				continue // the rest of them is of the rest
			}
			r.retry = nil
			r.name += "-once"
		}
		host.routes = append(host.routes, r)
	}
	return host
}

// grpcMessage is the largest message that gRPC takes unless it is told: 4 MiB,
// and what frames it. A call does not say how large its message is, and is worth
// a second try more than other requests: its failures come late.
const grpcMessage = 4<<20 + 1<<10

// afterWork reports whether an answer is tried again, and with it work that an
// application may have done. Envoy gives up an answer for the next try at once,
// and if it then finds that there is more of the body than it kept, there is no
// answer at all: 507. So an answer is tried again only where the size of the
// body is known, and what never reached an application always.
func afterWork(r policy.Retry) bool {
	return len(r.StatusCodes) > 0 || slices.ContainsFunc(r.Conditions, func(c string) bool { return !neverReached(c) })
}

// neverReached reports whether a condition is of requests that certainly did not
// reach an application.
func neverReached(condition string) bool {
	return slices.Contains([]string{"connect-failure", "refused-stream", "reset-before-request", "http3-post-connect-failure"}, condition)
}

// beforeWork is of r what is for requests that certainly did not reach an
// application.
func beforeWork(r policy.Retry) policy.Retry {
	all := slices.ContainsFunc(r.Conditions, func(c string) bool { return c == "5xx" || c == "gateway-error" || c == "reset" })
	if all {
		r.Conditions = []string{"connect-failure", "refused-stream", "reset-before-request"}
	} else {
		r.Conditions = slices.DeleteFunc(slices.Clone(r.Conditions), func(c string) bool { return !neverReached(c) })
	}
	r.StatusCodes = nil
	return r
}

// httpRetry is the retry policy of ordinary requests, nil for none. A try that
// may take as long as the whole request needs no timeout of its own.
func httpRetry(r policy.Retry, request time.Duration) *retry {
	perTry := r.Timeout
	if request > 0 && perTry >= request {
		perTry = 0
	}
	made := retryOf(r, r.Conditions, perTry)
	if made != nil {
		made.tooLarge = uint64(r.MaxBodyBytes) + 1
	}
	return made
}

// grpcRetry is the retry policy of gRPC calls. A dead application answers 200
// there, with status UNAVAILABLE in the trailers. A try has no timeout unless
// the service sets one itself: a server stream's first message may take any time.
func grpcRetry(r policy.Retry) *retry {
	conditions := r.Conditions
	if !slices.Contains(conditions, "unavailable") {
		conditions = append(slices.Clone(conditions), "unavailable")
	}
	var perTry time.Duration
	if r.TimeoutOfService {
		perTry = r.Timeout
	}
	return retryOf(r, conditions, perTry)
}

func retryOf(r policy.Retry, conditions []string, perTry time.Duration) *retry {
	if len(r.StatusCodes) > 0 && !slices.Contains(conditions, "retriable-status-codes") {
		conditions = append(slices.Clone(conditions), "retriable-status-codes")
	}
	if r.Attempts == 0 || len(conditions) == 0 {
		return nil
	}
	return &retry{
		on: conditions, statuses: r.StatusCodes, attempts: r.Attempts, perTry: perTry,
		baseInterval: r.BaseInterval, maxInterval: r.MaxInterval,
	}
}

// minRouteTimeout is the time that a request has where neither its own
// timeout nor its retries ask for another: Envoy's own default.
const minRouteTimeout = 15 * time.Second

// routeTimeout is the time that a request has, with all its retries.
func routeTimeout(t policy.Timeout, r policy.Retry) time.Duration {
	if t.Request != nil {
		return *t.Request
	}
	if r.Timeout == 0 {
		return minRouteTimeout
	}
	all := r.Timeout * time.Duration(r.Attempts+1)
	// The k-th back-off is at most base times 2 to the k, and at most max.
	for i, interval := uint32(0), r.BaseInterval; i < r.Attempts && interval > 0; i++ {
		if r.MaxInterval > 0 {
			interval = min(interval, r.MaxInterval)
		}
		all += interval
		interval *= 2
	}
	return max(minRouteTimeout, all)
}

// refs are the clusters that the route leads to.
func (r route) refs() []resource.Ref {
	refs := make([]resource.Ref, 0, len(r.to))
	for _, to := range r.to {
		refs = append(refs, resource.Cluster.Ref(to.destination))
	}
	return refs
}

// refs are the clusters that the host's routes lead to, each once.
func (h *virtualHost) refs() []resource.Ref {
	var refs []resource.Ref
	for _, r := range h.routes {
		for _, ref := range r.refs() {
			if !slices.Contains(refs, ref) {
				refs = append(refs, ref)
			}
		}
	}
	return refs
}

// equal reports whether two virtual hosts, which may be nil, are the same.
func (h *virtualHost) equal(o *virtualHost) bool { return reflect.DeepEqual(h, o) }
