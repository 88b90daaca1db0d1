package why

import (
	"fmt"
	"slices"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	faultv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
)

// follow finds the route of a request, and takes each of the ways that it leads.
func (w *walk) follow(config *routev3.RouteConfiguration, r request) error {
	host, route, err := routeFor(config, r)
	if err != nil {
		return err
	}
	if route == nil {
		w.step("route", "", "no route of %s matches", config.GetName())
		w.v.End = End{Outcome: fails, Status: 404, Code: "MC3001", Flag: "NR", Says: "the call is answered 404: no route matches"}
		return nil
	}
	says := w.s.RouteNamed(host.GetName(), route.GetName())
	source, name := "", route.GetName()
	if says != nil {
		source, name = w.source(says.Key), says.Name
	}
	w.step("route", source, "%s, of %s", route.GetName(), condition(route.GetMatch()))

	left := 100.0 // percent of the calls
	if abort, err := abortOf(route); err != nil {
		return err
	} else if abort != nil {
		share := fraction(abort.GetPercentage())
		left -= share
		status := int(abort.GetHttpStatus())
		if abort.GetHttpStatus() == 0 {
			status = 200 // gRPC's own stands in a header
		}
		w.v.Ways = append(w.v.Ways, Way{Percent: share, Steps: []Step{{What: "fault", Says: fmt.Sprintf("%s of the calls are aborted", percent(share)), Source: source}}, End: End{
			Outcome: fails, Status: status, Code: "MC3009", Flag: "FI", Says: fmt.Sprintf("a fault of the mesh file answers %d", status), Fix: "take the fault of route " + name + " out",
		}})
		if left <= 0 {
			return nil
		}
	}
	switch action := route.GetAction().(type) {
	case *routev3.Route_Redirect:
		to, err := location(r, route)
		if err != nil {
			return err
		}
		status := redirectStatus(action.Redirect.GetResponseCode())
		w.answered(left, source, End{Status: status, Location: to, Says: fmt.Sprintf("the call is answered %d by route %s, which leads to %s", status, name, to)})
		return nil
	case *routev3.Route_DirectResponse:
		status := int(action.DirectResponse.GetStatus())
		w.answered(left, source, End{Status: status, Says: fmt.Sprintf("the call is answered %d by route %s", status, name)})
		return nil
	case *routev3.Route_Route:
		return w.lead(left, config, host, route, action.Route, r)
	}
	return fmt.Errorf("route %s does %T, which is not known here", route.GetName(), route.GetAction())
}

// answered ends a part of the calls with an answer that the mesh file has.
func (w *walk) answered(share float64, source string, e End) {
	e.Outcome = answered
	w.v.Ways = append(w.v.Ways, Way{Percent: share, Steps: []Step{{What: "answer", Says: fmt.Sprintf("%d", e.Status), Source: source}}, End: e})
}

// routeFor is the first route that takes a request. Configurations here have one
// virtual host, of every domain.
func routeFor(config *routev3.RouteConfiguration, r request) (*routev3.VirtualHost, *routev3.Route, error) {
	for _, host := range config.GetVirtualHosts() {
		if !slices.Contains(host.GetDomains(), "*") {
			return nil, nil, fmt.Errorf("routes %s: a virtual host of some domains, which is not known here", config.GetName())
		}
		for _, route := range host.GetRoutes() {
			ok, err := matches(route.GetMatch(), r)
			if err != nil {
				return nil, nil, fmt.Errorf("route %s: %w", route.GetName(), err)
			}
			if ok {
				return host, route, nil
			}
		}
	}
	return nil, nil, nil
}

// abortOf is the fault that a route has calls fail with; nil for none.
func abortOf(route *routev3.Route) (*faultv3.FaultAbort, error) {
	for name, config := range route.GetTypedPerFilterConfig() {
		var fault faultv3.HTTPFault
		if !config.MessageIs(&fault) {
			continue
		}
		if err := config.UnmarshalTo(&fault); err != nil {
			return nil, fmt.Errorf("route %s: %s: %w", route.GetName(), name, err)
		}
		if abort := fault.GetAbort(); abort != nil && fraction(abort.GetPercentage()) > 0 {
			return abort, nil
		}
	}
	return nil, nil
}

// fraction is a fraction in percent.
func fraction(f *typev3.FractionalPercent) float64 {
	of := 100.0
	switch f.GetDenominator() {
	case typev3.FractionalPercent_TEN_THOUSAND:
		of = 10_000
	case typev3.FractionalPercent_MILLION:
		of = 1_000_000
	}
	return float64(f.GetNumerator()) * 100 / of
}

// lead takes the ways to the clusters of a route.
func (w *walk) lead(left float64, config *routev3.RouteConfiguration, host *routev3.VirtualHost, route *routev3.Route, action *routev3.RouteAction, r request) error {
	onward := func(r request) (request, error) {
		r = edited(r, route.GetRequestHeadersToAdd(), route.GetRequestHeadersToRemove())
		r = edited(r, host.GetRequestHeadersToAdd(), host.GetRequestHeadersToRemove())
		r = edited(r, config.GetRequestHeadersToAdd(), config.GetRequestHeadersToRemove())
		return rewritten(r, route, action)
	}
	switch to := action.GetClusterSpecifier().(type) {
	case *routev3.RouteAction_Cluster:
		made, err := onward(r)
		if err != nil {
			return err
		}
		return w.way(left, to.Cluster, made)
	case *routev3.RouteAction_WeightedClusters:
		total := uint32(0)
		for _, share := range to.WeightedClusters.GetClusters() {
			total += share.GetWeight().GetValue()
		}
		for _, share := range to.WeightedClusters.GetClusters() {
			weight := share.GetWeight().GetValue()
			if weight == 0 {
				continue
			}
			made, err := onward(edited(r, share.GetRequestHeadersToAdd(), share.GetRequestHeadersToRemove()))
			if err != nil {
				return err
			}
			if err := w.way(left*float64(weight)/float64(total), share.GetName(), made); err != nil {
				return err
			}
		}
		return nil
	}
	return fmt.Errorf("route %s leads by %T, which is not known here", route.GetName(), action.GetClusterSpecifier())
}
