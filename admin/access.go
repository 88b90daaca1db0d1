package admin

import (
	"log/slog"
	"net"
	"net/http"
	"strings"

	"datapunk.dev/controlplane/admin/api"
)

// door says who may do what. On this machine everybody may read, and to change something
// takes a token; from elsewhere each call takes one.
type door struct {
	local        bool
	authenticate func(token string) (api.Caller, bool)
}

// anybody is who calls from this machine without a token.
var anybody = api.Caller{Name: "this machine", Role: api.Read}

// guarded is a handler that knows who calls.
type guarded func(w http.ResponseWriter, r *http.Request, who api.Caller)

// guard lets those in who have the role.
func (d door) guard(role api.Role, log *slog.Logger, h guarded) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		who, err := d.caller(r)
		if err == nil && !who.Role.May(role) {
			err = refusal(who, role)
		}
		if err != nil {
			fail(w, log, err)
			return
		}
		h(w, r, who)
	})
}

// handler is guard for a handler that does not ask who calls.
func (d door) handler(role api.Role, log *slog.Logger, h http.Handler) http.Handler {
	return d.guard(role, log, func(w http.ResponseWriter, r *http.Request, _ api.Caller) { h.ServeHTTP(w, r) })
}

// caller finds out who calls. A token that is no good is an error also where none is
// needed.
func (d door) caller(r *http.Request) (api.Caller, error) {
	shown := r.Header.Values("Authorization")
	if len(shown) == 0 {
		if d.local {
			return anybody, nil
		}
		return api.Caller{}, &api.Error{Message: "no token", Reason: api.Unauthenticated, Hint: "Authorization: Bearer …, of controlplane admin-token"}
	}
	token, ok := strings.CutPrefix(shown[0], "Bearer ")
	if ok && len(shown) == 1 && d.authenticate != nil {
		if who, ok := d.authenticate(token); ok {
			return who, nil
		}
	}
	return api.Caller{}, &api.Error{Message: "the token is not valid", Reason: api.Unauthenticated, Hint: "see controlplane admin-token"}
}

// refusal says what a caller lacks.
func refusal(who api.Caller, role api.Role) error {
	if who == anybody {
		return &api.Error{
			Message: "to change something takes a token", Reason: api.Unauthenticated,
			Hint: "Authorization: Bearer …, of controlplane admin-token --role operate",
		}
	}
	return &api.Error{Message: who.Name + " has the role " + string(who.Role) + ", and this takes " + string(role), Reason: api.Forbidden}
}

// Local reports whether only this machine reaches a listener's address.
func Local(addr net.Addr) bool {
	switch a := addr.(type) {
	case *net.TCPAddr:
		return a.IP.IsLoopback()
	case *net.UnixAddr:
		return true
	}
	return false
}
