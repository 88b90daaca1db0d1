package translate

import (
	"fmt"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	filterchainv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/filter_chain/v3"
	luav3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/lua/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"datapunk.dev/controlplane/policy"
)

// sticky reports whether a route leads whoever comes again to where they were.
func (r route) sticky() bool { return r.says != nil && r.says.Sticky != nil && len(r.to) > 1 }

// hashedBy is what is hashed of a request. Envoy has one hash a request, which picks
// the share and the instance: on a sticky route what the service hashes is left out,
// for it would pick the share of who has no header, all of one address the same.
func hashedBy(d *builder, r route) []*routev3.RouteAction_HashPolicy {
	if !r.sticky() {
		return hashPolicy(d, r.hash)
	}
	p := &routev3.RouteAction_HashPolicy{Terminal: true}
	if name := r.says.Sticky.Header; name != "" {
		p.PolicySpecifier = &routev3.RouteAction_HashPolicy_Header_{Header: &routev3.RouteAction_HashPolicy_Header{HeaderName: name}}
	} else {
		p.PolicySpecifier = &routev3.RouteAction_HashPolicy_Cookie_{Cookie: &routev3.RouteAction_HashPolicy_Cookie{Name: r.says.Sticky.Cookie}}
	}
	return []*routev3.RouteAction_HashPolicy{p}
}

// givingCookie gives a cookie to who has none, and then has the route looked for
// again: a share is chosen while it is looked for, so one that came later would
// lead the second request elsewhere than the first.
const givingCookie = `function envoy_on_request(request)
  local headers = request:headers()
  local cookies = headers:get("cookie")
  if cookies ~= nil and string.find("; " .. cookies, "; %[1]s=", 1, true) ~= nil then
    return
  end
  local id = string.gsub(headers:get("x-request-id") or "", "[^%%w-]", "")
  if id == "" then
    return
  end
  local cookie = "%[1]s=" .. id
  if cookies ~= nil and cookies ~= "" then
    headers:replace("cookie", cookies .. "; " .. cookie)
  else
    headers:replace("cookie", cookie)
  end
  request:streamInfo():dynamicMetadata():set("controlplane.sticky", "cookie", cookie)
  request:clearRouteCache()
end

function envoy_on_response(response)
  local given = response:streamInfo():dynamicMetadata():get("controlplane.sticky")
  if given ~= nil then
    response:headers():add("set-cookie", given["cookie"] .. "; Path=/; HttpOnly%[2]s")
  end
end
`

// cookieGiver fills a route's place with that.
func cookieGiver(d *builder, s *policy.Sticky) *anypb.Any {
	life := ""
	if s.TTL > 0 {
		life = fmt.Sprintf("; Max-Age=%d", s.TTL/time.Second)
	}
	return d.pack(&filterchainv3.FilterChainConfigPerRoute{FilterChain: &filterchainv3.FilterChain{Filters: []*corev3.TypedExtensionConfig{{
		Name:        "envoy.filters.http.lua",
		TypedConfig: d.pack(&luav3.Lua{DefaultSourceCode: inlineText(fmt.Sprintf(givingCookie, s.Cookie, life))}),
	}}}})
}
