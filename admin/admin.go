// Package admin is what operators and Prometheus read over HTTP: liveness and
// readiness, metrics, the scrape targets of the fleet, the state of each proxy,
// and profiles of the process. It owns the handlers and their JSON, not the
// listener, and changes nothing: every path is read-only, and none shows a key, a
// token or a secret.
package admin

import (
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"net/netip"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"datapunk.dev/controlplane/xds"
)

// Readiness is whether the control plane serves configuration.
type Readiness struct {
	Ready   bool     `json:"ready"`
	Waiting []string `json:"waiting,omitempty"` // what it waits for, while not ready
	Holding []string `json:"holding,omitempty"` // where it serves the last good state instead of the newest
	// Problems are what keeps proxies from being served, though all is well here.
	Problems []string `json:"problems,omitempty"`
}

// Sources are where the handlers get what they show.
type Sources struct {
	Readiness func() Readiness
	Proxies   func() []xds.ProxyStatus
	// Registrations are who is in the catalog, by which replica, and why not.
	Registrations func() Registrations
	// Registered reports whether the catalog has an instance of the service at
	// the address.
	Registered func(service string, at netip.Addr) bool
	Scrape     func() Scrape
	Metrics    prometheus.Gatherer
	// Listener is where the handler is served: profiles are there only if no
	// other machine can ask for them.
	Listener net.Addr
}

// Handler returns the handler of the admin address.
func Handler(log *slog.Logger, src Sources) http.Handler {
	targets := newTargets(src.Proxies, src.Registered, src.Scrape)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, log, http.StatusOK, struct {
			Status string `json:"status"`
		}{"ok"})
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		r := src.Readiness()
		code := http.StatusOK
		if !r.Ready {
			code = http.StatusServiceUnavailable
		}
		reply(w, log, code, r)
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(src.Metrics, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /sd/prometheus", func(w http.ResponseWriter, _ *http.Request) {
		// Prometheus keeps its list on an error, and forgets it on an empty
		// answer: so a control plane that does not know the fleet yet errs.
		if r := src.Readiness(); !r.Ready {
			reply(w, log, http.StatusServiceUnavailable, r)
			return
		}
		reply(w, log, http.StatusOK, targets.list())
	})
	mux.HandleFunc("GET /api/v1/proxies", func(w http.ResponseWriter, _ *http.Request) {
		proxies := src.Proxies()
		if proxies == nil {
			proxies = []xds.ProxyStatus{}
		}
		reply(w, log, http.StatusOK, struct {
			Proxies []xds.ProxyStatus `json:"proxies"`
		}{proxies})
	})
	mux.HandleFunc("GET /api/v1/registrations", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, log, http.StatusOK, src.Registrations())
	})
	addProfiles(mux, src.Listener)
	return mux
}

func reply(w http.ResponseWriter, log *slog.Logger, code int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	if err := json.NewEncoder(w).Encode(body); err != nil {
		log.Debug("the reader of an admin answer went away", "err", err)
	}
}
