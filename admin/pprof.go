package admin

import (
	"net"
	"net/http"
	"net/http/pprof"
)

// addProfiles adds the profiles of this process, if only this machine can ask
// for them: a profile takes CPU, and says much of what is at work.
func addProfiles(mux *http.ServeMux, listener net.Addr) {
	if !local(listener) {
		return
	}
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
}

// local reports whether only this machine reaches a listener's address.
func local(addr net.Addr) bool {
	switch a := addr.(type) {
	case *net.TCPAddr:
		return a.IP.IsLoopback()
	case *net.UnixAddr:
		return true
	}
	return false
}
