package translate

import (
	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
)

// nobodyToCall is what a caller reads with a 503 for which no instance was even
// tried. Envoy's own words alone have sent people looking for a network fault.
const nobodyToCall = "no healthy upstream: %UPSTREAM_CLUSTER% has no instance that may be called; " +
	"none is registered, or all are in maintenance, of weight 0, or unhealthy"

// localReplies are the words of the answers that the application's own sidecar
// gives in the place of a service. They are the same in every mesh, since a
// listener that changes drains.
func localReplies() *hcmv3.LocalReplyConfig {
	return &hcmv3.LocalReplyConfig{Mappers: []*hcmv3.ResponseMapper{{
		Filter: &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_ResponseFlagFilter{
			ResponseFlagFilter: &accesslogv3.ResponseFlagFilter{Flags: []string{"UH"}},
		}},
		BodyFormatOverride: &corev3.SubstitutionFormatString{Format: &corev3.SubstitutionFormatString_TextFormatSource{
			TextFormatSource: &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: nobodyToCall}},
		}},
	}}}
}
