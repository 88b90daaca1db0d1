package translate

import (
	"math"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	filev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/file/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/structpb"

	"datapunk.dev/controlplane/policy"
)

type accessLogKey policy.AccessLogs

// accessLog is how a listener logs what it served; nothing if the file has
// access logs off.
func accessLog(d *builder, c *compiler) []*accesslogv3.AccessLog {
	logs := c.accessLogs
	if !logs.Enabled {
		return nil
	}
	return part(c, accessLogKey(logs), func() []*accesslogv3.AccessLog {
		return []*accesslogv3.AccessLog{{
			Name:   "envoy.access_loggers.file",
			Filter: accessLogFilter(logs),
			ConfigType: &accesslogv3.AccessLog_TypedConfig{TypedConfig: d.pack(&filev3.FileAccessLog{
				Path:            logs.Path,
				AccessLogFormat: &filev3.FileAccessLog_LogFormat{LogFormat: accessLogFormat(logs.Format)},
			})},
		}}
	})
}

// logField is one field of an access log line. The names are ours, the
// operators Envoy's.
type logField struct{ name, value string }

// logFields are in the order of the text format.
func logFields() []logField {
	return []logField{
		{"ts", "%START_TIME%"},
		{"method", "%REQ(:METHOD)%"},
		{"path", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH):256%"},
		{"authority", "%REQ(:AUTHORITY)%"},
		{"protocol", "%PROTOCOL%"},
		{"upgrade", "%REQ(UPGRADE):64%"},
		{"status", "%RESPONSE_CODE%"},
		{"grpc", "%GRPC_STATUS%"},
		{"flags", "%RESPONSE_FLAGS%"},
		{"details", "%RESPONSE_CODE_DETAILS%"},
		{"term", "%CONNECTION_TERMINATION_DETAILS%"},
		{"peer", "%DOWNSTREAM_PEER_URI_SAN%"},
		{"upstream_peer", "%UPSTREAM_PEER_URI_SAN%"},
		{"upstream", "%UPSTREAM_HOST%"},
		{"cluster", "%UPSTREAM_CLUSTER%"},
		{"route", "%ROUTE_NAME%"},
		{"attempts", "%UPSTREAM_REQUEST_ATTEMPT_COUNT%"},
		{"tls_error", "%DOWNSTREAM_TRANSPORT_FAILURE_REASON%"},
		{"upstream_tls_error", "%UPSTREAM_TRANSPORT_FAILURE_REASON%"},
		{"audit", "%DYNAMIC_METADATA(envoy.common:access_log_hint)%"},
		{"shadow_deny", "%DYNAMIC_METADATA(envoy.filters.http.rbac:" + shadowDeny + "shadow_effective_policy_id)%"},
		{"shadow_allow", "%DYNAMIC_METADATA(envoy.filters.http.rbac:" + shadowAllow + "shadow_effective_policy_id)%"},
		{"ms", "%DURATION%"},
		{"rx", "%BYTES_RECEIVED%"},
		{"tx", "%BYTES_SENT%"},
		{"request_id", "%REQ(X-REQUEST-ID)%"},
		{"trace", "%TRACE_ID%"},
	}
}

func accessLogFormat(format string) *corev3.SubstitutionFormatString {
	if format == "text" {
		line := ""
		for _, f := range logFields() {
			line += f.name + "=" + f.value + " "
		}
		return text(line[:len(line)-1] + "\n")
	}
	fields := make(map[string]*structpb.Value)
	for _, f := range logFields() {
		fields[f.name] = structpb.NewStringValue(f.value)
	}
	return &corev3.SubstitutionFormatString{Format: &corev3.SubstitutionFormatString_JsonFormat{JsonFormat: &structpb.Struct{Fields: fields}}}
}

// accessLogFilter lets through what an AUDIT policy matched, what is at least
// the status, and a sample of the rest. It is nil if everything is logged.
func accessLogFilter(logs policy.AccessLogs) *accesslogv3.AccessLogFilter {
	if logs.MinStatus == 0 {
		return nil
	}
	filters := []*accesslogv3.AccessLogFilter{
		{FilterSpecifier: &accesslogv3.AccessLogFilter_MetadataFilter{MetadataFilter: &accesslogv3.MetadataFilter{
			Matcher: &matcherv3.MetadataMatcher{
				Filter: "envoy.common",
				Path:   []*matcherv3.MetadataMatcher_PathSegment{{Segment: &matcherv3.MetadataMatcher_PathSegment_Key{Key: "access_log_hint"}}},
				Value:  &matcherv3.ValueMatcher{MatchPattern: &matcherv3.ValueMatcher_BoolMatch{BoolMatch: true}},
			},
			MatchIfKeyNotFound: boolean(false),
		}}},
		{FilterSpecifier: &accesslogv3.AccessLogFilter_StatusCodeFilter{StatusCodeFilter: &accesslogv3.StatusCodeFilter{
			Comparison: &accesslogv3.ComparisonFilter{
				Op:    accesslogv3.ComparisonFilter_GE,
				Value: &corev3.RuntimeUInt32{DefaultValue: logs.MinStatus, RuntimeKey: "controlplane.access_logs.min_status"},
			},
		}}},
	}
	if logs.Sample > 0 {
		const million = 1_000_000
		filters = append(filters, &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_RuntimeFilter{RuntimeFilter: &accesslogv3.RuntimeFilter{
			RuntimeKey:     "controlplane.access_logs.sample",
			PercentSampled: &typev3.FractionalPercent{Numerator: uint32(math.Round(logs.Sample * million)), Denominator: typev3.FractionalPercent_MILLION},
		}}})
	}
	return &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_OrFilter{OrFilter: &accesslogv3.OrFilter{Filters: filters}}}
}
