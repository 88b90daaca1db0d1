package translate

import (
	"strconv"
	"strings"

	corsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/cors/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"datapunk.dev/controlplane/policy"
)

// cors switches the filter on; nil for none. It answers the preflights of all origins:
// an application that lets everybody in would else have the last word.
func cors(d *builder, c *policy.CORS) *anypb.Any {
	if c == nil {
		return nil
	}
	config := &corsv3.CorsPolicy{
		AllowMethods: strings.Join(c.AllowMethods, ", "), AllowHeaders: strings.Join(c.AllowHeaders, ", "), ExposeHeaders: strings.Join(c.ExposeHeaders, ", "),
		AllowCredentials: boolean(c.AllowCredentials), ForwardNotMatchingPreflights: boolean(false),
	}
	if c.MaxAge != nil {
		config.MaxAge = strconv.Itoa(int(c.MaxAge.Seconds()))
	}
	for _, origin := range c.AllowOrigins {
		m := exact(origin)
		switch pattern := policy.OriginPattern(origin); {
		case origin == policy.AnyOrigin:
			m = regex(".*")
		case pattern != "":
			m = regex(pattern)
		}
		config.AllowOriginStringMatch = append(config.AllowOriginStringMatch, m)
	}
	return d.pack(config)
}
