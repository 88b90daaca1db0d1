package admin

import (
	"net/http"
	"net/http/pprof"
)

// addProfiles adds the profiles of this process, if only this machine can ask
// for them: a profile takes CPU, and says much of what is at work.
func addProfiles(mux *http.ServeMux, door door) {
	if !door.local {
		return
	}
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
}
