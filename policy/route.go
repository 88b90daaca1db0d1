package policy

import "time"

// Route is what becomes of some of the requests to a service. Of those of one
// service the first that matches decides.
type Route struct {
	Name, Service string
	Key           string // where it stands: routes[0]

	Match []RouteMatch // any of them; empty: every request

	Rewrite       *Rewrite
	Redirect      *Redirect
	Response      *DirectResponse
	Split         []Share // empty: as the service's other requests
	OnEmptySubset OnEmpty
	Mirror        *Mirror
	Headers       HeaderEdits
	Fault         *Fault
	Hedging       bool
	Sticky        *Sticky // of its split
	CORS          *CORS

	Retry   Retry   // the service's, with what the route says laid over it
	Timeout Timeout // likewise
}

// Answers reports whether a route answers by itself: nothing is called.
func (r *Route) Answers() bool { return r.Redirect != nil || r.Response != nil }

// RouteMatch is a condition on a request. The fields are ANDed, an empty field is
// any.
type RouteMatch struct {
	Path    PathMatch
	Methods []string
	Headers []HeaderMatch
	Query   []QueryMatch
	GRPC    *GRPCMatch
}

// PathMatch is a condition on the path, without its query; at most one is set.
type PathMatch struct {
	Exact    string
	Prefix   string // and all below it: /api is /api and /api/x, not /apix
	Template string // {name} is one segment, * too, ** any number at the end
	Regex    string
}

// QueryMatch is a condition on one parameter of a query; exactly one of the
// others is set.
type QueryMatch struct {
	Name    string
	Exact   *string
	Prefix  *string
	Regex   *string
	Present *bool
}

// GRPCMatch is of calls of gRPC. What is empty is any.
type GRPCMatch struct{ Service, Method string }

// Rewrite changes a request on its way to the service.
type Rewrite struct {
	Prefix       string // in the place of the path that matched
	Regex        string // what is found of it in the path…
	Substitution string // …is replaced by this
	Host         string
}

// Redirect sends the caller elsewhere.
type Redirect struct {
	Path   string // the whole path; the query stays
	Prefix string // in the place of the prefix that matched
	Host   string
	Status uint32
}

// DirectResponse is the proxy's own answer.
type DirectResponse struct {
	Status uint32
	Body   string
}

// Share is a part of a route's requests.
type Share struct {
	Service string
	Subset  string // empty: all instances
	OnEmpty OnEmpty
	Weight  uint32
	Headers HeaderEdits
}

// Mirror sends a copy of some requests elsewhere, and forgets the answer.
type Mirror struct {
	Service, Subset string
	Percent         float64
}

// HeaderEdits are changes of the headers of requests and of their answers.
type HeaderEdits struct{ Request, Response HeaderEdit }

// HeaderEdit is of one direction. Set replaces, Add adds one more.
type HeaderEdit struct {
	Set, Add map[string]string
	Remove   []string
}

// Fault is what a route does to its requests, to try what becomes of callers.
type Fault struct {
	Delay *Delay
	Abort *Abort
}

// Delay holds requests back.
type Delay struct {
	Duration time.Duration
	Percent  float64
}

// Abort answers in the place of the service, by one of both.
type Abort struct {
	Status     uint32
	GRPCStatus *uint32
	Percent    float64
}
