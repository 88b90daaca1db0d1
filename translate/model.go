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
	subset    string // of these, empty: all
	resolves  bool   // some of them are names, for each proxy to resolve
	fallback  fallback

	protocol       policy.Protocol
	connectTimeout time.Duration
	idleTimeout    time.Duration
	balancing      string // least_request, round_robin, random, ring_hash, maglev
	hashesHeader   bool   // of what is hashed, something is a header
	prefersZone    bool   // the caller's own, where the policy can
	slowStart      policy.SlowStart
	panicThreshold float64 // percent of healthy instances below which all are called
	breakers       policy.CircuitBreakers
	outliers       policy.OutlierDetection
	checked        bool // actively, by checks
	checks         policy.HealthChecks
}

// virtualHost is what a caller finds under the names of a service.
type virtualHost struct {
	name   string
	routes []route // the first that matches decides
}

// route leads requests to destinations, or answers them.
type route struct {
	name  string
	match match
	to    []weightedDestination
	span  string // the name of the spans
	begin sampling

	says   *policy.Route // what the file says of it; nil: nothing
	mirror string        // the cluster that is sent copies; empty: none

	timeout        time.Duration // of the request with all its tries; 0: none
	callerDeadline bool          // gRPC: the caller's own holds, however long it is
	streamIdle     time.Duration // 0: a silent stream lasts
	maxStream      time.Duration // 0: a busy one too
	hedged         bool          // a try that is slow goes on beside the next one
	retry          *retry        // nil: no second try
	keeps          uint64        // bytes of a body, to send it again
	hash           []policy.HashPolicy
}

// match is which requests take a route.
type match struct {
	path    policy.PathMatch
	headers []policy.HeaderMatch
	query   []policy.QueryMatch
	grpc    bool
	methods []string // empty: every method
	unsized bool     // there may be a body, and nobody says how large
}

// weightedDestination is a part of a route's requests.
type weightedDestination struct {
	destination string
	bare        string // the same, but for a cluster in front of others
	weight      uint32
	headers     policy.HeaderEdits // of these requests alone
}

// retry is when and how often a request is tried again.
type retry struct {
	on                        []string
	answers                   []string // conditions beside those of what never reached an application
	tooLarge                  uint64   // a body that says it is so long is not sent again; 0: any
	statuses                  []uint32
	attempts                  uint32
	perTry                    time.Duration // 0: none
	baseInterval, maxInterval time.Duration // of the back-off
	retryAfter                time.Duration // the longest wait that an answer may ask for; 0: none
	anyHost                   bool          // one that has failed too
}

// virtualHostOf is how callers reach a service over HTTP; nil for one that does
// not speak it. The routes of the file come first.
func virtualHostOf(s *policy.Service, begin sampling) *virtualHost {
	if s.Protocol == policy.TCP {
		return nil
	}
	whole := route{
		name:  s.Name,
		match: match{path: policy.PathMatch{Prefix: "/"}},
		to:    []weightedDestination{leadTo(s.Name, s.DefaultSubset, s.OnEmptySubset, 100)},
		span:  s.Name,
		begin: begin,
		hash:  s.LoadBalancing.HashPolicy,
	}
	host := &virtualHost{name: s.Name}
	for i := range s.Routes {
		host.routes = append(host.routes, routesOf(s, &s.Routes[i], whole)...)
	}
	host.routes = append(host.routes, formsOf(whole, s.Retry, s.Timeout)...)
	return host
}

// What formsOf adds to the name of a route.
const (
	formGRPC    = "-grpc"
	formUnsized = "-unsized"
	formOnce    = "-once"
)

// routeForms are the ends of a route's name that formsOf makes.
var routeForms = []string{"", formGRPC, formUnsized, formOnce, formGRPC + formOnce}

// formsOf are the routes that a route becomes: gRPC's come first, then those of
// ordinary requests. Where the file names the methods that may be tried again, these
// have a route with retries, and the rest one without: of retriable_request_headers
// one is enough, and a body has to be short enough too.
func formsOf(whole route, r policy.Retry, t policy.Timeout) []route {
	whole.streamIdle, whole.maxStream = t.StreamIdle, t.MaxStream
	hedged := whole.says != nil && whole.says.Hedging
	grpc, rest := whole, whole
	grpc.name, grpc.match.grpc, grpc.callerDeadline, grpc.retry = whole.name+formGRPC, true, true, grpcRetry(r)
	if len(r.Methods) > 0 && !slices.Contains(r.Methods, "POST") {
		grpc.retry = nil // for every call is one
	}
	grpc.hedged = hedged && grpc.retry != nil && grpc.retry.perTry > 0
	grpc.keeps = max(grpcMessage, uint64(r.MaxBodyBytes))
	if t.RequestOfRoute {
		grpc.timeout = *t.Request
	}
	if grpc.timeout == 0 {
		grpc.mirror = "" // who does not read copies would hold up the call
	}
	var routes []route
	if len(whole.match.methods) == 0 || slices.Contains(whole.match.methods, "POST") {
		routes = append(routes, grpc)
	}
	if !whole.match.grpc {
		rest.timeout = routeTimeout(t, r)
		if t.RequestOfRoute && rest.timeout > 0 && rest.timeout < rest.maxStream {
			rest.maxStream = 0 // Envoy takes one of the two
		}
		rest.retry = httpRetry(r, rest.timeout)
		rest.keeps = uint64(r.MaxBodyBytes)
		if rest.retry != nil && afterWork(r) && mayHaveBody(whole.match.methods, r.Methods) {
			unsized := rest
			unsized.name, unsized.match.unsized = whole.name+formUnsized, true
			unsized.retry = httpRetry(beforeWork(r), rest.timeout)
			unsized.retry, rest.retry = splitConditions(unsized.retry, rest.retry)
			routes = append(routes, unsized)
		}
		rest.hedged = hedged && rest.retry != nil && rest.retry.perTry > 0
		routes = append(routes, rest)
	}
	var all []route
	for _, f := range routes {
		if len(r.Methods) == 0 || f.retry == nil || f.match.grpc {
			all = append(all, f)
			continue
		}
		limited := f
		if limited.match.methods = r.Methods; len(f.match.methods) > 0 {
			limited.match.methods = slices.DeleteFunc(slices.Clone(r.Methods), func(m string) bool { return !slices.Contains(f.match.methods, m) })
		}
		if len(limited.match.methods) > 0 {
			all = append(all, limited)
		}
		if f.match.unsized || len(limited.match.methods) == len(f.match.methods) {
			continue // the rest of them is of the rest, or there is none
		}
		f.retry, f.hedged = nil, false
		f.name += formOnce
		all = append(all, f)
	}
	return all
}

// bodyless are the methods whose requests have no body, if they do not say how large
// it is.
var bodyless = []string{"DELETE", "GET", "HEAD", "OPTIONS", "TRACE"}

// mayHaveBody reports whether a request of some methods that may be tried again can
// have a body without a size. Empty is every method.
func mayHaveBody(methods, tried []string) bool {
	switch {
	case len(methods) == 0 && len(tried) == 0:
		return true
	case len(methods) == 0:
		methods = tried
	case len(tried) > 0:
		methods = slices.DeleteFunc(slices.Clone(methods), func(m string) bool { return !slices.Contains(tried, m) })
	}
	return len(withBody(methods)) > 0
}

// withBody are those of some methods that are not bodyless.
func withBody(methods []string) (others []string) {
	for _, m := range methods {
		if !slices.Contains(bodyless, m) {
			others = append(others, m)
		}
	}
	return others
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

// splitConditions has two policies of a route, of which the first is for requests that
// did not reach an application, differ by the answers alone.
func splitConditions(before, whole *retry) (_, _ *retry) {
	if before == nil {
		return before, whole
	}
	answers := slices.DeleteFunc(slices.Clone(whole.on), func(c string) bool { return slices.Contains(before.on, c) })
	if slices.ContainsFunc(answers, policy.IsGRPCRetryCondition) {
		return before, whole
	}
	shared := *whole
	shared.on, shared.answers = before.on, answers
	first := shared
	first.answers = nil
	return &first, &shared
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
		baseInterval: r.BaseInterval, maxInterval: r.MaxInterval, retryAfter: r.RetryAfter, anyHost: r.HostSelection == policy.AnyHost,
	}
}

// envoyTimeout is the time that a request has by a route that does not say.
const envoyTimeout = 15 * time.Second

// minRouteTimeout is the time that a request has where neither its own
// timeout nor its retries ask for another.
const minRouteTimeout = envoyTimeout

// routeTimeout is the time that a request has, with all its retries.
func routeTimeout(t policy.Timeout, r policy.Retry) time.Duration {
	if t.Request != nil {
		return *t.Request
	}
	if r.Timeout == 0 {
		return minRouteTimeout + r.RetryAfter*time.Duration(r.Attempts)
	}
	all := r.Timeout * time.Duration(r.Attempts+1)
	// The k-th back-off is at most base times 2 to the k, and at most max.
	for i, interval := uint32(0), r.BaseInterval; i < r.Attempts && interval > 0; i++ {
		if r.MaxInterval > 0 {
			interval = min(interval, r.MaxInterval)
		}
		all += max(interval, r.RetryAfter)
		interval *= 2
	}
	return max(minRouteTimeout, all)
}

// refs are the clusters that the route leads to.
func (r route) refs() []resource.Ref {
	refs := make([]resource.Ref, 0, len(r.to)+1)
	for _, to := range r.to {
		refs = append(refs, resource.Cluster.Ref(to.destination))
	}
	if r.mirror != "" {
		refs = append(refs, resource.Cluster.Ref(r.mirror))
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
