package admin

import (
	"net"
	"strings"
	"testing"
)

// Profiles are for this machine alone; elsewhere nothing says that they exist.
func TestProfilesAreForThisMachineAlone(t *testing.T) {
	tcp := func(ip string) net.Addr { return &net.TCPAddr{IP: net.ParseIP(ip), Port: 19000} }
	for _, tt := range []struct {
		listener net.Addr
		code     int
	}{
		{tcp("127.0.0.1"), 200},
		{tcp("127.0.0.53"), 200},
		{tcp("::1"), 200},
		{&net.UnixAddr{Net: "unix", Name: "/run/admin.sock"}, 200},
		{tcp("0.0.0.0"), 404},
		{tcp("::"), 404},
		{tcp("10.0.0.5"), 404},
		{tcp("fe80::1"), 404},
		{&net.TCPAddr{Port: 19000}, 404}, // every address
	} {
		h := (&fake{listener: tt.listener}).handler()
		for path, says := range map[string]string{
			"/debug/pprof/": "heap", "/debug/pprof/goroutine?debug=1": "goroutine profile", "/debug/pprof/heap": "\x1f\x8b",
			"/debug/pprof/cmdline": "admin.test", "/debug/pprof/profile?seconds=1": "", "/debug/pprof/trace?seconds=0": "", "/debug/pprof/symbol": "num_symbols",
		} {
			if tt.code == 200 && says == "" {
				continue // takes its time
			}
			code, body := get(h, path)
			if code != tt.code || code == 200 && !strings.Contains(body, says) {
				t.Errorf("%v%s: %d %.60q", tt.listener, path, code, body)
			}
		}
	}
}
