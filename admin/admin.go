// Package admin is what operators and Prometheus read over HTTP: liveness and
// readiness, metrics, the scrape targets of the fleet, the operators' API, whose types
// are in [api], and profiles of the process. It owns the handlers, who may call which,
// and their JSON, not the listener. What changes something takes the role operate and is
// recorded; no answer shows a key, a token or a secret.
package admin

import (
	"context"
	"log/slog"
	"net"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"datapunk.dev/controlplane/admin/api"
	"datapunk.dev/controlplane/xds"
)

// Readiness is whether the control plane serves configuration.
type Readiness struct {
	Ready   bool     `json:"ready"`
	Waiting []string `json:"waiting,omitempty"` // what it waits for, while not ready
	Holding []string `json:"holding,omitempty"` // where it serves the last good state instead of the newest
	// Problems are what keeps proxies from being served, though all is well here.
	Problems []string `json:"problems,omitempty"`
	// Leader is whether this replica does what must happen once.
	Leader bool `json:"leader,omitempty"`
}

// Fleet are the proxies of all replicas, ordered by node.
type Fleet struct {
	Proxies []xds.ProxyStatus
	// Unanswered are the replicas whose proxies are not among them.
	Unanswered []api.Unanswered
}

// Sources are where the handlers get what they show. An error of the API, [api.Error],
// is answered as it stands.
type Sources struct {
	Readiness func() Readiness
	// Fleet are the proxies of all replicas.
	Fleet func(context.Context) (Fleet, error)
	// Status is what /status says beside readiness and the fleet.
	Status func() api.Status
	// Services are the names of the mesh's services.
	Services func() []string
	// Why says what becomes of a call.
	Why func(api.Call) (api.Verdict, error)
	// Describe says what is in force of a service, a proxy or a policy.
	Describe func(kind, name string) (api.Description, error)
	// Resources are what a proxy of this replica is served, of one type or, with "", all.
	Resources func(node, kind string) ([]api.Resource, error)
	// Certificates are the authority and the proxies' certificates, ordered by node, and
	// Rotate has some of them renewed and says how many.
	Certificates func() (api.Certificates, error)
	Rotate       func(api.Rotate) (int, error)
	// Events returns what has happened after a cursor, and what is closed when more has.
	Events func(cursor string, limit int) (api.Events, <-chan struct{})
	// Revisions are the mesh files that were in force, Revision one of them, and Diff what
	// stands otherwise in one of them than in another, or with "" in that in force.
	Revisions func() (api.Revisions, error)
	Revision  func(revision string) (api.RevisionFiles, error)
	Diff      func(from, to string) (api.Diff, error)
	// Pin has a revision served until Release, and says by whom.
	Pin     func(who api.Caller, revision string) (said string, err error)
	Release func(who api.Caller, revision string) error
	// Plan says what a mesh file would change.
	Plan func(ctx context.Context, files []api.File) (api.Plan, error)
	// Findings are what is likely a mistake in the mesh file in force, beside the catalog.
	Findings func() (api.Findings, error)
	// Checks look at what the control plane needs.
	Checks func(context.Context) api.Checks
	// Registrations are who is in the catalog, by which replica, and why not.
	Registrations func() api.Registrations
	// Replicas are the control planes of the mesh.
	Replicas func() api.Replicas
	// Removals are those that are held, and DecideRemoval takes one or keeps it.
	Removals      func() api.Removals
	DecideRemoval func(ctx context.Context, id string, accept bool) error
	// Roots are the root certificates, none with plaintext xDS, and StepRoot takes a step
	// of the replacement of the first one.
	Roots    func() api.Roots
	StepRoot func(ctx context.Context, step string) error

	// Authenticate says whose token it is; false: nobody's. Nil: there are no tokens.
	Authenticate func(token string) (api.Caller, bool)
	// Acted is told of each act, and what came of it.
	Acted func(who api.Caller, what string, err error)

	Targets *Targets
	Metrics prometheus.Gatherer
	// Listener is where the handler is served. Where other machines can reach it, each
	// call takes a token, and profiles are not there.
	Listener net.Addr
}

// Handler returns the handler of the admin address.
func Handler(log *slog.Logger, src Sources) http.Handler {
	door := door{local: Local(src.Listener), authenticate: src.Authenticate}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, log, http.StatusOK, struct {
			Status string `json:"status"`
		}{"ok"})
	})
	// A load balancer has no token, and why is for those who have one.
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		is := src.Readiness()
		code := http.StatusOK
		if !is.Ready {
			code = http.StatusServiceUnavailable
		}
		if _, err := door.caller(r); err != nil {
			is = Readiness{Ready: is.Ready}
		}
		reply(w, log, code, is)
	})
	// What cannot be told, of the process say when there is no descriptor for it, must
	// not hide the rest.
	mux.Handle("GET /metrics", door.handler(api.Read, log, promhttp.HandlerFor(src.Metrics, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError})))
	mux.Handle("GET /sd/prometheus", door.handler(api.Read, log, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// Prometheus keeps its list on an error, and forgets it on an empty
		// answer: so a control plane that does not know the fleet yet errs.
		if is := src.Readiness(); !is.Ready {
			reply(w, log, http.StatusServiceUnavailable, is)
			return
		}
		fleet, err := src.Fleet(r.Context())
		if err != nil {
			fail(w, log, failed(api.Unavailable, err))
			return
		}
		reply(w, log, http.StatusOK, src.Targets.list(fleet))
	})))
	addRoutes(mux, log, src, door)
	addProfiles(mux, door)
	return mux
}
