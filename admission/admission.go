// Package admission says who is admitted by configuration that Envoys are served:
// the HTTP rules in an inbound route configuration, and the identities in a secret
// callers/<service>. It reads what was made, not the mesh file that it was made of,
// so it is right about what will happen even where the two would differ.
package admission

import (
	"fmt"
	"maps"
	"slices"

	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	rbacfilterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/proto"
)

// Answer is whether a caller is admitted.
type Answer uint8

// The answers. Depends is where a method, a path or a header decides.
const (
	Never Answer = iota
	Depends
	Always
)

// String is the answer as people read it.
func (a Answer) String() string { return [...]string{"closed", "by conditions", "open"}[a] }

func (a Answer) not() Answer { return Always - a }

// MarshalText writes the answer into JSON.
func (a Answer) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// Request is a request as the callee's sidecar sees it; the path is normalized.
type Request struct {
	Method    string
	Path      string // with its query, if it has one
	Authority string
	Headers   map[string]string // names in small letters
}

// Decision is what becomes of a caller, and by which rule.
type Decision struct {
	Answer Answer
	Rule   string // the policy's name; empty: no ALLOW matches
	Deny   bool   // the rule is a DENY
}

// Rules are who is admitted to one service.
type Rules struct {
	deny, allow []named
	identities  []*matcherv3.StringMatcher // of TCP
	tcp         bool
}

type named struct {
	name   string
	policy *rbacv3.Policy
}

// HTTP reads an inbound route configuration. Without rules in it nobody is admitted:
// the filters that it overrides admit nobody.
func HTTP(body []byte) (*Rules, error) {
	var config routev3.RouteConfiguration
	if err := proto.Unmarshal(body, &config); err != nil {
		return nil, fmt.Errorf("route configuration: %w", err)
	}
	r := &Rules{}
	for name, override := range config.GetTypedPerFilterConfig() {
		var rbac rbacfilterv3.RBACPerRoute
		if !override.MessageIs(&rbac) {
			continue
		}
		if err := override.UnmarshalTo(&rbac); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		rules := rbac.GetRbac().GetRules()
		switch rules.GetAction() {
		case rbacv3.RBAC_DENY:
			r.deny = append(r.deny, sorted(rules.GetPolicies())...)
		case rbacv3.RBAC_ALLOW:
			r.allow = append(r.allow, sorted(rules.GetPolicies())...)
		}
	}
	return r, nil
}

func sorted(policies map[string]*rbacv3.Policy) []named {
	all := make([]named, 0, len(policies))
	for _, name := range slices.Sorted(maps.Keys(policies)) {
		all = append(all, named{name, policies[name]})
	}
	return all
}

// TCP reads a secret with the identities that may open a connection.
func TCP(body []byte) (*Rules, error) {
	var secret tlsv3.Secret
	if err := proto.Unmarshal(body, &secret); err != nil {
		return nil, fmt.Errorf("secret: %w", err)
	}
	r := &Rules{tcp: true}
	for _, san := range secret.GetValidationContext().GetMatchTypedSubjectAltNames() {
		r.identities = append(r.identities, san.GetMatcher())
	}
	return r, nil
}

// Decide says what becomes of a caller with the identity, or without one if it is
// empty. Without a request the answer is about all of them.
func (r *Rules) Decide(identity string, req *Request) Decision {
	if r.tcp {
		for _, m := range r.identities {
			if identity != "" && Matches(m, identity) {
				return Decision{Answer: Always, Rule: "callers"}
			}
		}
		return Decision{}
	}
	best := Decision{}
	denied := Never // what a DENY may take
	var by string
	for _, p := range r.deny {
		if a := p.match(identity, req); a > denied {
			denied, by = a, p.name
		}
	}
	if denied == Always {
		return Decision{Never, by, true}
	}
	for _, p := range r.allow {
		if a := p.match(identity, req); a > best.Answer {
			best = Decision{Answer: a, Rule: p.name}
		}
	}
	if denied == Depends && best.Answer > Never {
		return Decision{Depends, by, true}
	}
	return best
}

// Admitting are the names of the ALLOW rules that admit the caller to something, whatever
// a request is.
func (r *Rules) Admitting(identity string) []string {
	var names []string
	for _, p := range r.allow {
		if p.match(identity, nil) > Never {
			names = append(names, p.name)
		}
	}
	return names
}

// match is whether a policy is about a caller and a request.
func (p named) match(identity string, req *Request) Answer {
	who, what := Never, Never
	for _, one := range p.policy.GetPrincipals() {
		who = max(who, principal(one, identity, req))
	}
	if who == Never {
		return Never
	}
	for _, one := range p.policy.GetPermissions() {
		what = max(what, permission(one, req))
	}
	return min(who, what)
}

func principal(p *rbacv3.Principal, identity string, req *Request) Answer {
	switch id := p.GetIdentifier().(type) {
	case *rbacv3.Principal_Any:
		return yes(id.Any)
	case *rbacv3.Principal_AndIds:
		return all(id.AndIds.GetIds(), func(p *rbacv3.Principal) Answer { return principal(p, identity, req) })
	case *rbacv3.Principal_OrIds:
		return some(id.OrIds.GetIds(), func(p *rbacv3.Principal) Answer { return principal(p, identity, req) })
	case *rbacv3.Principal_NotId:
		return principal(id.NotId, identity, req).not()
	case *rbacv3.Principal_Authenticated_:
		return yes(identity != "" && Matches(id.Authenticated.GetPrincipalName(), identity))
	case *rbacv3.Principal_Header:
		return header(id.Header, req)
	}
	return Depends // what is not known may be
}

func permission(p *rbacv3.Permission, req *Request) Answer {
	switch rule := p.GetRule().(type) {
	case *rbacv3.Permission_Any:
		return yes(rule.Any)
	case *rbacv3.Permission_AndRules:
		return all(rule.AndRules.GetRules(), func(p *rbacv3.Permission) Answer { return permission(p, req) })
	case *rbacv3.Permission_OrRules:
		return some(rule.OrRules.GetRules(), func(p *rbacv3.Permission) Answer { return permission(p, req) })
	case *rbacv3.Permission_NotRule:
		return permission(rule.NotRule, req).not()
	case *rbacv3.Permission_Header:
		return header(rule.Header, req)
	case *rbacv3.Permission_UrlPath:
		if req == nil {
			if anything(rule.UrlPath) {
				return Always
			}
			return Depends
		}
		return yes(Matches(rule.UrlPath.GetPath(), withoutQuery(req.Path)))
	}
	return Depends
}

func yes(b bool) Answer {
	if b {
		return Always
	}
	return Never
}

func all[T any](parts []T, of func(T) Answer) Answer {
	answer := Always
	for _, p := range parts {
		answer = min(answer, of(p))
	}
	return answer
}

func some[T any](parts []T, of func(T) Answer) Answer {
	answer := Never
	for _, p := range parts {
		answer = max(answer, of(p))
	}
	return answer
}
