package policy

import (
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
)

// CORS says which pages of other origins a browser lets call a route.
type CORS struct {
	AllowOrigins     []string // scheme, host and port; AnyOrigin; or with a * for some labels
	AllowMethods     []string
	AllowHeaders     []string
	ExposeHeaders    []string
	MaxAge           *time.Duration // nil: the browser's own
	AllowCredentials bool
}

// AnyOrigin is every page.
const AnyOrigin = "*"

// OriginPattern is the expression of an origin with a *, empty for one without.
func OriginPattern(origin string) string {
	before, after, found := strings.Cut(origin, "*")
	if !found || origin == AnyOrigin {
		return ""
	}
	return regexp.QuoteMeta(before) + "[a-z0-9.-]+" + regexp.QuoteMeta(after)
}

// origin is one as browsers send it.
func origin() parser[string] {
	return checked("origin, `*` or `https://*.HOST`", `^(\*|[a-z][a-z0-9+.-]*://.+)$`, CodeMatch, func(v value, text string) bool {
		if text == AnyOrigin {
			return true
		}
		plain := strings.Replace(text, "://*.", "://x.", 1)
		u, err := url.Parse(plain)
		if err != nil || u.Host == "" || plain != u.Scheme+"://"+u.Host || strings.ToLower(plain) != plain || strings.Contains(plain, "*") {
			v.fail(CodeMatch, "https://shop.example, or https://*.shop.example", "%q is no origin: scheme, host and port as a browser sends them", text)
			return false
		}
		if err := CheckRegex(OriginPattern(text)); err != nil {
			v.fail(CodeMatch, "", "%v", err)
			return false
		}
		return true
	})
}

// corsHeader is the name of a header, in the letters that it is written in.
func corsHeader() parser[string] {
	return checked("name of a header", ".", CodeMatch, func(v value, text string) bool {
		if text != "*" && !isToken(text) {
			v.fail(CodeMatch, "", "%q is no name of a header", text)
			return false
		}
		return true
	})
}

func checkCORS(s *mapping, c *CORS) bool {
	s.checkNotEmpty("allow_origins")
	if c.AllowCredentials {
		for _, o := range c.AllowOrigins {
			if o == AnyOrigin {
				s.first("allow_credentials").fail(CodeConflict, "allow_origins: [https://shop.example]", "every page could act for whoever is logged in: an origin has to be named")
				return false
			}
		}
	}
	return true
}

// checkPreflight warns of a match that a browser's question before a request is none
// of: it has neither the method of the request, nor its headers.
func (d *decoder) checkPreflight(v *mapping, r *Route) {
	if r.CORS == nil {
		return
	}
	for i, m := range r.Match {
		at := v.items("match")[i].mapping()
		header := slices.IndexFunc(m.Headers, HeaderMatch.leavesOutPreflights)
		switch {
		case m.GRPC != nil:
			at.keyOf("grpc").fail(CodeNoEffect, "path: {prefix: /PACKAGE.SERVICE}", "no preflight comes to cors: a browser asks by OPTIONS first, which is no call of gRPC")
		case len(m.Methods) > 0 && !slices.Contains(m.Methods, "OPTIONS"):
			at.first("methods").fail(CodeNoEffect, "add OPTIONS", "no preflight comes to cors: a browser asks by OPTIONS first")
		case header >= 0:
			at.items("headers")[header].fail(CodeNoEffect, "a match of its own for OPTIONS, without the header",
				"no preflight comes to cors: a browser asks by OPTIONS first, without %s", m.Headers[header].Name)
		}
	}
}

// leavesOutPreflights reports whether a condition wants a header that no preflight has.
func (h HeaderMatch) leavesOutPreflights() bool {
	name := strings.ToLower(h.Name)
	absent := h.Invert || h.Present != nil && !*h.Present
	return !absent && name != "origin" && !strings.HasPrefix(name, "access-control-request-")
}
