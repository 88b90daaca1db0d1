package randommesh

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
)

// Call is a call of nexus.
type Call struct {
	To     string // the service that is meant: lake, db, ghost or none
	Host   string
	Method string
	Path   string // with its query
	Header string // NAME=VALUE or nothing
}

// Calls makes calls of a seed.
func Calls(seed uint64, n int) []Call {
	r := rand.New(rand.NewPCG(seed, 15))
	all := make([]Call, n)
	for i := range all {
		c := Call{To: pick(r, "lake", "lake", "lake", "lake", "lake", "db", "db", "ghost", "nobody"), Method: pick(r, methods...), Path: pick(r, append(slices.Clone(paths), "/Admin/x", "//admin/./x", "/a%2Fb", "/apix")...)}
		if c.To != "db" {
			c.Host = pick(r, c.To, c.To, c.To, c.To+".mesh", strings.ToUpper(c.To), c.To+":80", c.To+".")
		}
		if r.IntN(3) == 0 {
			c.Path += "?q=1"
		}
		if r.IntN(3) == 0 {
			c.Header = "x-a=one"
		}
		all[i] = c
	}
	return all
}

func (c Call) String() string {
	return fmt.Sprintf("%s %s (%s) %s %s", c.To, c.Host, c.Method, c.Path, c.Header)
}

// End is how a call, or a share of such calls, ends.
type End struct {
	Status int    // of the answer; 0: of TCP
	Code   string // why it fails; empty: it does not
	App    bool   // an application has it
	Path   string // that the application sees
}

// Ends are the ways in which a call can end, in the order of the shares.
func (m Mesh) Ends(c Call) []End {
	if c.To == "db" {
		return []End{m.tcp()}
	}
	declared := func(name string) bool { return m.Upstream == nil || slices.Contains(m.Upstream, name) }
	switch {
	case c.To == "nobody":
		return []End{{Status: 404, Code: "MC3001"}}
	case !declared(c.To):
		return []End{{Status: 404, Code: "MC3002"}}
	case c.To == "ghost":
		return []End{{Status: 503, Code: "MC3003"}}
	}
	path, query, _ := strings.Cut(c.Path, "?")
	for strings.Contains(path, "/./") {
		path = strings.ReplaceAll(path, "/./", "/")
	}
	for strings.Contains(path, "//") {
		path = strings.ReplaceAll(path, "//", "/")
	}
	for _, r := range m.Routes {
		if !r.takes(c, path, query) {
			continue
		}
		switch r.Does {
		case "redirect", "answer":
			return []End{{Status: r.Status}}
		case "fault":
			return []End{{Status: r.Status, Code: "MC3009"}}
		case "rewrite":
			path = r.rewrite(path)
		case "split":
			return []End{m.lake(c, path, query, "v1"), m.lake(c, path, query, "v2")}
		case "subset":
			return []End{m.lake(c, path, query, "v1")}
		}
		break
	}
	return []End{m.lake(c, path, query, m.Subset)}
}

// lake ends a call at lake, or at a subset of it.
func (m Mesh) lake(c Call, path, query, subset string) End {
	called := m.callable("lake", subset)
	if len(called) == 0 && subset != "" && !m.Fail {
		if m.Subset != "" {
			called = m.callable("lake", m.Subset)
		}
		if len(called) == 0 {
			called = m.callable("lake", "")
		}
	}
	if len(called) == 0 {
		return End{Status: 503, Code: "MC3003"}
	}
	if m.denied("lake", c, path) {
		return End{Status: 403, Code: "MC3005"}
	}
	if !m.Slashes && strings.Contains(strings.ToLower(path), "%2f") {
		return End{Status: 400, Code: "MC3011"}
	}
	if query != "" {
		path += "?" + query
	}
	return End{Status: http.StatusOK, App: true, Path: path}
}

func (m Mesh) tcp() End {
	switch {
	case !m.DB:
		return End{Code: "MC3006"}
	case len(m.callable("db", "")) == 0:
		return End{Code: "MC3003"}
	case m.denied("db", Call{}, ""):
		return End{Code: "MC3007"}
	}
	return End{App: true}
}

// denied reports whether nexus is not admitted. Of a connection, conditions on HTTP
// make an ALLOW void, and a DENY wider.
func (m Mesh) denied(service string, c Call, path string) bool {
	if !m.Enabled {
		return false
	}
	admitted := m.Allow
	for _, p := range m.Policies {
		if p.Shadow || p.OnlyLake && service != "lake" || p.Source != "" && p.Source != "nexus" || p.NotSource == "nexus" {
			continue
		}
		ofHTTP := p.Method+p.Path+p.Header != ""
		if service == "db" {
			if p.Deny {
				return true
			}
			admitted = admitted || !ofHTTP
			continue
		}
		if p.Method != "" && p.Method != c.Method || p.Header != "" && p.Header != c.Header || !p.takes(path) {
			continue
		}
		if p.Deny {
			return true
		}
		admitted = true
	}
	return !admitted
}

// takes matches a path: a DENY in any case.
func (p Policy) takes(path string) bool {
	if p.Deny {
		path = strings.ToLower(path)
	}
	switch head, open := strings.CutSuffix(p.Path, "*"); {
	case p.Path == "" || p.Path == "/*":
		return true
	case open:
		return path == strings.TrimSuffix(head, "/") || strings.HasPrefix(path, head)
	default:
		return path == p.Path
	}
}

func (r Route) takes(c Call, path, query string) bool {
	switch {
	case r.Exact != "" && path != r.Exact:
		return false
	case r.Prefix != "" && r.Prefix != "/" && path != r.Prefix && !strings.HasPrefix(path, r.Prefix+"/"):
		return false
	case r.Method != "" && r.Method != c.Method, r.Query != "" && r.Query != query:
		return false
	case strings.HasPrefix(r.Header, "!"):
		return r.Header[1:] != c.Header
	case r.Header != "":
		return r.Header == c.Header
	}
	return true
}

// rewrite puts To in the place of what matched.
func (r Route) rewrite(path string) string {
	switch {
	case r.Exact != "":
		return r.To
	case r.Prefix == "/" || r.Prefix == "":
		return r.To + path
	default:
		return r.To + strings.TrimPrefix(path, r.Prefix)
	}
}
