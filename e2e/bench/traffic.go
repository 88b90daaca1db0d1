package main

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// In a world with traffic management each tenth service has so many subsets and routes.
const (
	subsets   = 3
	routes    = 5
	trafficOf = 10
)

// editMark stands in the route of a service that is edited, with how often it was.
const editMark = "edit-"

// traffic is the part of the mesh file with the subsets, and the routes.
func (w world) traffic(times map[int]int) []byte {
	var b bytes.Buffer
	b.WriteString("mesh:\n  services:\n")
	for i := range w.Services {
		if w.Traffic && i%trafficOf == 0 {
			fmt.Fprintf(&b, "    %s: {subsets: {v0: {version: \"0\"}, v1: {version: \"1\"}, v2: {version: \"2\"}}, default_subset: v0}\n", serviceName(i))
		} else if times[i] > 0 {
			fmt.Fprintf(&b, "    %s: {}\n", serviceName(i))
		}
	}
	b.WriteString("  routes:\n")
	for i := range w.Services {
		if times[i] > 0 {
			fmt.Fprintf(&b, "    - {name: edited-%d, service: %s, match: [{path: {prefix: /edited}}], headers: {response: {set: {x-edit: %s%d.}}}}\n", i, serviceName(i), editMark, times[i])
		}
		for k := range routes {
			if w.Traffic && i%trafficOf == 0 {
				fmt.Fprintf(&b, "    - {name: api-%d-%d, service: %s, match: [{path: {prefix: /api/%[2]d}, headers: [{name: x-tenant, exact: t%[2]d}]}], split: [{subset: v0, weight: 95}, {subset: v%[4]d, weight: 5}], timeout: {request: 3s}}\n",
					i, k, serviceName(i), 1+k%(subsets-1))
			}
		}
	}
	return b.Bytes()
}

// changes is the service of the nth change: one with routes, where there are any.
func (w world) changes(n int) int {
	if w.Traffic {
		n *= trafficOf
	}
	return n % w.Services
}

// routed are the names of the routes to some services.
func routed(services []string) []string {
	names := make([]string, len(services))
	for i, name := range services {
		names[i] = routesPrefix + name
	}
	return names
}

const routesPrefix = "outbound/"

// parts are some services' assignments, with those of their subsets.
func (w world) parts(services []string) []string {
	if !w.Traffic {
		return services
	}
	all := slices.Clone(services)
	for _, name := range services {
		if serviceNumber([]byte(name))%trafficOf == 0 {
			for k := range subsets {
				all = append(all, fmt.Sprintf("%s|v%d", name, k))
			}
		}
	}
	return all
}

// configurations notes each route configuration that was edited.
func (p *proxy) configurations(m []byte, at time.Time) {
	fields(m, func(num protowire.Number, res []byte, _ uint64) {
		if num != 2 || p.want > 0 {
			return
		}
		body := field(res, 2) // an Any's value, or a Resource's Any
		if !p.fleet.w.SotW {
			body = field(body, 2)
		}
		name, ok := bytes.CutPrefix(field(body, 1), []byte(routesPrefix))
		if a := (arrival{stream: p.id, service: serviceNumber(name), place: timesEdited(body), at: at}); ok && a.place > 0 {
			p.news = append(p.news, a)
		}
	})
}

// timesEdited is how often the route was edited; -1: never.
func timesEdited(configuration []byte) int {
	_, rest, ok := bytes.Cut(configuration, []byte(editMark))
	digits, _, ended := bytes.Cut(rest, []byte("."))
	n, err := strconv.Atoi(string(digits))
	if !ok || !ended || err != nil {
		return -1
	}
	return n
}
