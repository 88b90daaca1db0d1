package why

import (
	"fmt"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	commonlimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	filterchainv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/filter_chain/v3"
	locallimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/local_ratelimit/v3"
	globallimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ratelimit/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"

	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/spelling"
)

// limits are the rate limits of a sidecar that hold for one of its callers.
type limits struct {
	steps []Step
	// most is how many requests pass, of those limits that refuse any; empty: all do.
	most   []string
	status uint32 // of an answer to the others
}

// limitsAt reads the limits that a request meets at a sidecar, in their order.
func (w *walk) limitsAt(service string, at calleeKey, route *routev3.Route, identity string) (*limits, error) {
	filters, err := fillingOf(at.filling)
	if err != nil || len(filters) == 0 {
		return &limits{}, err
	}
	l := &limits{}
	lines := w.linesOf(at.service)
	_, passedOver := route.GetTypedPerFilterConfig()[resource.ExtensionInbound]
	var local locallimitv3.LocalRateLimit
	var global globallimitv3.RateLimit
	for _, f := range filters {
		switch config := f.GetTypedConfig(); {
		case passedOver && (config.MessageIs(&local) || config.MessageIs(&global)):
			l.step("", "no rate limit holds for the path of an active check")
			return l, nil
		case config.MessageIs(&local):
			if err := config.UnmarshalTo(&local); err != nil {
				return nil, fmt.Errorf("rate limit of %s: %w", service, err)
			}
			l.counted(w, at.service, &local, lines, identity)
		case config.MessageIs(&global):
			if err := config.UnmarshalTo(&global); err != nil {
				return nil, fmt.Errorf("rate limit of %s: %w", service, err)
			}
			l.asked(w, &global, lines)
		}
	}
	return l, nil
}

// fillingOf are the filters that a sidecar's inbound listener has for this service.
func fillingOf(r *resource.Resource) ([]*corev3.TypedExtensionConfig, error) {
	if r == nil {
		return nil, nil
	}
	var extension corev3.TypedExtensionConfig
	var chain filterchainv3.FilterChainConfig
	if err := proto.Unmarshal(r.Body, &extension); err != nil {
		return nil, fmt.Errorf("extension %s: %w", r.Name, err)
	}
	if err := extension.GetTypedConfig().UnmarshalTo(&chain); err != nil {
		return nil, fmt.Errorf("extension %s: %w", r.Name, err)
	}
	return chain.GetDefaultFilterChain().GetFilters(), nil
}

// linesOf are the lines of a service's settings, by their keys.
func (w *walk) linesOf(service string) map[string]string {
	lines := make(map[string]string)
	for _, e := range w.s.Input.Mesh.Effective(service) {
		if e.From != "" {
			lines[e.Key] = e.Source.String()
		}
	}
	return lines
}

// counted says what a sidecar counts by itself: of all callers, and of this one.
func (l *limits) counted(w *walk, service string, c *locallimitv3.LocalRateLimit, lines map[string]string, identity string) {
	of := "each instance of " + service
	if s, ok := w.s.Settings(service); ok && s.RateLimit.Per == policy.PerService {
		of += ", its part of what all take together,"
	}
	shadow := c.GetFilterEnforced().GetDefaultValue().GetNumerator() == 0
	add := func(b *typev3.TokenBucket, whose, key string) {
		says := fmt.Sprintf("%s takes %s %s, and %d at one time", of, rate(b), whose, b.GetMaxTokens())
		if shadow {
			says += "; what is more is counted, and refused to nobody: mode is shadow"
		} else {
			l.most, l.status = append(l.most, rate(b)+" "+whose+" at each instance"), uint32(c.GetStatus().GetCode()) //nolint:gosec // a status of HTTP
		}
		l.step(lines[key], says)
	}
	if d, key := descriptorOf(c, identity, w.v.Call.From); d != nil {
		add(d.GetTokenBucket(), "of "+w.v.Call.From, key)
	}
	if b := c.GetTokenBucket(); b != nil {
		add(b, "of all callers together", "rate_limit.requests")
	}
}

// descriptorOf is the limit of a caller, by its name or as of any other, and its key.
func descriptorOf(c *locallimitv3.LocalRateLimit, identity, caller string) (of *commonlimitv3.LocalRateLimitDescriptor, key string) {
	if identity == "" {
		return nil, ""
	}
	for _, d := range c.GetDescriptors() {
		switch d.GetEntries()[0].GetValue() {
		case identity:
			return d, "rate_limit.callers." + caller + ".requests"
		case "":
			of, key = d, "rate_limit.callers."+policy.EachOther+".requests"
		}
	}
	return of, key
}

// asked says which server counts.
func (l *limits) asked(w *walk, c *globallimitv3.RateLimit, lines map[string]string) {
	server := w.s.Input.Mesh.LimitServer
	name := server.Service
	if name == "" {
		name = server.Address
	}
	says := fmt.Sprintf("the server %s counts for all instances, in the domain %s: how many pass is in its own configuration", name, c.GetDomain())
	switch {
	case c.GetFilterEnforced().GetDefaultValue().GetNumerator() == 0:
		says += "; what is more is counted, and refused to nobody: mode is shadow"
	default:
		l.most = append(l.most, "as many as the server "+name+" lets pass")
		if l.status == 0 {
			l.status = uint32(c.GetRateLimitedStatus().GetCode()) //nolint:gosec // a status of HTTP
		}
	}
	s := l.step(lines["rate_limit.per"], says)
	then := "the call goes on without a limit"
	if c.GetFailureModeDeny() {
		then = "the call is answered 503 (MC3018)"
	}
	s.Details = []string{fmt.Sprintf("if it says nothing within %s, %s (%s)", spelling.Duration(c.GetTimeout().AsDuration()), then, w.source(policy.KeyLimitServer))}
}

func (l *limits) step(source, says string) *Step {
	l.steps = append(l.steps, Step{What: "rate limit", Says: says, Source: source})
	return &l.steps[len(l.steps)-1]
}

// bound adds to what becomes of a call that of those calls that are too many.
func (l *limits) bound(e End) End {
	if len(l.most) > 0 {
		e.Says += fmt.Sprintf(", up to %s; more is answered %d (MC3017)", strings.Join(l.most, ", and "), l.status)
	}
	return e
}

// rate is what comes into a bucket.
func rate(b *typev3.TokenBucket) string {
	if every := b.GetFillInterval().AsDuration(); every != time.Second {
		return fmt.Sprintf("%d in %s", b.GetTokensPerFill().GetValue(), spelling.Duration(every))
	}
	return fmt.Sprintf("%d a second", b.GetTokensPerFill().GetValue())
}
