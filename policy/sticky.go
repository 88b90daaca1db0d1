package policy

import "time"

// Sticky has a split lead whoever comes again to where they were; exactly one of
// Header and Cookie is set.
type Sticky struct {
	Header string // whose value tells callers apart
	Cookie string // that the proxy gives to those who have none
	TTL    time.Duration
}

func checkSticky(s *mapping, st *Sticky) bool {
	if !exactlyOne(s, "header", "cookie") {
		return false
	}
	if st.Header != "" && s.has("ttl") {
		s.first("ttl").fail(CodeNoEffect, "cookie: NAME", "has no effect: it is the life of a cookie")
	}
	return true
}

// cookieName is one that stands in a header as it is.
func cookieName() parser[string] {
	return checked("name of a cookie", "^[A-Za-z0-9_-]+$", CodeHeader, func(v value, text string) bool {
		if !onlyOf(text, "-_") {
			v.fail(CodeHeader, "letters, digits, dashes and underscores", "%q is no name for a cookie", text)
			return false
		}
		return true
	})
}

// checkStickyRoute looks whether there is anything to come back to.
func (d *decoder) checkStickyRoute(v *mapping, r *Route) {
	if r.Sticky != nil && len(r.Split) < 2 {
		v.first("sticky").fail(CodeNoEffect, "split: […]", "has no effect: the route has one place to go to")
		r.Sticky = nil
	}
}
