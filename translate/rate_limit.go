package translate

import (
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	commonlimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/local_ratelimit/v3"
	exprv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/rate_limit_descriptors/expr/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"

	"datapunk.dev/controlplane/policy"
)

// callerOf is a caller's identity, in Envoy's words: of the certificate that the
// connection has shown, and of no header.
const callerOf = "connection.uri_san_peer_certificate"

// maxOtherCallers is how many callers that the file does not name have a bucket each.
// Those who did not call for longest lose theirs, and begin with a full one.
const maxOtherCallers = 1000

// rateLimit is the filter that refuses, or counts, what is too much. The limits are
// divided into parts.
func rateLimit(d *builder, c *compiler, r policy.RateLimit, parts uint32) *ratelimitv3.LocalRateLimit {
	all := &corev3.RuntimeFractionalPercent{DefaultValue: fraction(100)}
	limit := &ratelimitv3.LocalRateLimit{
		StatPrefix:                     "mesh",
		Status:                         &typev3.HttpStatus{Code: typev3.StatusCode(r.Status)}, //nolint:gosec // 429 or 503
		FilterEnabled:                  all,
		FilterEnforced:                 all,
		EnableRetryAfterHeader:         true,
		RateLimitedAsResourceExhausted: true,
		EnableXRatelimitHeaders:        commonlimitv3.XRateLimitHeadersRFCVersion_DRAFT_VERSION_03,
		// The listener's replies know a 429, and no 503 that a limit answers.
		ResponseHeadersToAdd: []*corev3.HeaderValueOption{errorHeader(codeRateLimit)},
	}
	if r.Mode == policy.Shadow {
		limit.FilterEnforced = &corev3.RuntimeFractionalPercent{DefaultValue: fraction(0)}
		limit.EnableXRatelimitHeaders = commonlimitv3.XRateLimitHeadersRFCVersion_OFF
		limit.ResponseHeadersToAdd = nil
	}
	if r.All.Requests > 0 {
		limit.TokenBucket = tokenBucket(r.All, parts)
	}
	if len(r.Callers) == 0 {
		return limit
	}
	limit.RateLimits = []*routev3.RateLimit{{Actions: []*routev3.RateLimit_Action{evaluated(d, "caller", callerOf)}}}
	for _, caller := range r.Callers {
		entry := &commonlimitv3.RateLimitDescriptor_Entry{Key: "caller"}
		if caller.Caller != policy.EachOther {
			entry.Value = c.identity(caller.Caller)
		} else {
			limit.MaxDynamicDescriptors = u32(maxOtherCallers)
		}
		limit.Descriptors = append(limit.Descriptors, &commonlimitv3.LocalRateLimitDescriptor{
			Entries: []*commonlimitv3.RateLimitDescriptor_Entry{entry}, TokenBucket: tokenBucket(caller.Bucket, parts),
		})
	}
	return limit
}

// evaluated is an entry of a descriptor that is an attribute of the request. Where there
// is none, as for a caller without a certificate, there is no descriptor.
func evaluated(d *builder, key, expression string) *routev3.RateLimit_Action {
	return &routev3.RateLimit_Action{ActionSpecifier: &routev3.RateLimit_Action_Extension{Extension: &corev3.TypedExtensionConfig{
		Name:        "envoy.rate_limit_descriptors.expr",
		TypedConfig: d.pack(&exprv3.Descriptor{DescriptorKey: key, ExprSpecifier: &exprv3.Descriptor_Text{Text: expression}}),
	}}}
}

// tokenBucket is a part of a bucket. Its rate is exact, whatever the number of parts:
// the same tokens come in a longer time, one by one.
func tokenBucket(b policy.Bucket, parts uint32) *typev3.TokenBucket {
	burst := (uint64(b.Burst) + uint64(parts) - 1) / uint64(parts)
	return &typev3.TokenBucket{
		MaxTokens:     uint32(max(1, burst)), //nolint:gosec // at most b.Burst
		TokensPerFill: u32(b.Requests),
		FillInterval:  duration(b.Interval * time.Duration(parts)),
	}
}
