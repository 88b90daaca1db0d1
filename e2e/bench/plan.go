package main

import (
	"context"
	"fmt"
	"time"
)

// experiment is one table.
type experiment struct {
	title string
	do    func(ctx context.Context, title string, out *report) error
}

// What is run. The quick plan is the full one's shape at small sizes.
var (
	quick = []experiment{
		translation(100, 1000),
		identities(2000),
		following("watch: 500 services", 500, 20, 10*time.Second),
		sideBySide("every stream asks for all", world{Services: 200, Instances: 10, Streams: 200}, 5, "ours", "floor", "snapshot", "linear", "ours+sotw", "ours+tls"),
		sideBySide("every stream asks for 10 of its own", world{Services: 1000, Instances: 10, Streams: 200, Scope: 10}, 5, "ours", "floor"),
		edits(world{Services: 200, Instances: 10, Streams: 200}, 5),
		inEnvoys(world{Services: 200, Instances: 10}, 2, 20),
		inUse("the vocabulary in use", world{Services: 200, Instances: 10, Streams: 200}, 5, "ours"),
		throughConsul("through Consul: 100 services, 10 a stream", sidecars(10, 10), 10, "ours+consul", "consul"),
		throughConsul("through Consul: 100 services, 10 a stream", sidecars(100, 10), 10, "ours+consul"),
		plainAgent("a plain agent: 200 services", callers(100, 10), 10, 10*time.Second, "check", "instance", "port"),
		atARate("20 changes a second", sidecars(100, 0), 20, 10, "ours"),
		atARate("1,000 changes a second", sidecars(100, 0), 1000, 5, "ours"),
		sameFault("a fault: a proxy refuses", ten(50), false, aRefusal),
	}
	full = []experiment{
		translation(100, 1000, 10_000),
		identities(10_000),
		following("watch: 5,000 services", 5000, 200, time.Minute),
		sideBySide("every stream asks for all", all, 10, "ours", "floor", "snapshot", "linear"),
		sideBySide("SotW and TLS", all, 10, "ours", "ours+sotw", "ours+tls", "floor+tls"),
		sideBySide("SotW beside a cache", all, 2, "ours+sotw", "snapshot+sotw"), // a change costs the latter 45 s
		sideBySide("every stream asks for 10 of its own", scoped, 10, "ours", "floor", "ours+sotw", "ours+tls"),
		sideBySide("two thousand proxies that are equal, as none are", equal(hundred), 10, "ours"),
		sideBySide("the same with addresses of their own", hundred, 10, "ours"),
		sideBySide("and with ports of their own", ports(hundred), 10, "ours"),
		sideBySide("ten thousand streams", world{Services: 1000, Instances: 10, Streams: 10_000}, 5, "ours", "floor"),
		edits(world{Services: 1000, Instances: 10, Streams: 1000}, 10),
		inEnvoys(world{Services: 1000, Instances: 10}, 4, 100),
		inUse("the vocabulary in use", world{Services: 1000, Instances: 10, Streams: 1000}, 10, "ours", "ours+sotw", "ours+tls"),
		inUse("the vocabulary in use, 10 of its own", scoped, 10, "ours"),
		throughConsul("through Consul: 100 services, 10 a stream", sidecars(10, 10), 20, "ours+consul", "consul"),
		throughConsul("through Consul: 100 services, 10 a stream", sidecars(100, 10), 20, "ours+consul", "consul"),
		throughConsul("through Consul: 100 services, 10 a stream", sidecars(1000, 10), 20, "ours+consul", "consul"),
		throughConsul("through Consul: 100 services, all to each stream", sidecars(10, 0), 20, "ours+consul", "consul"),
		throughConsul("through Consul: 100 services, all to each stream", sidecars(100, 0), 20, "ours+consul", "consul"),
		throughConsul("through Consul: 100 services, all to each stream", sidecars(1000, 0), 20, "ours+consul"),
		plainAgent("a plain agent: 200 services", callers(100, 10), 100, 20*time.Second, "check", "instance", "port"),
		plainAgent("a plain agent: 1,000 services", callers(500, 10), 60, 10*time.Second, "check", "instance"),
		plainAgent("a plain agent: 5,000 services", callers(2500, 2), 40, 10*time.Second, "check", "instance"),
		atARate("20 changes a second", sidecars(500, 0), 20, 60, "ours", "ours+consul", "floor"),
		atARate("20 a second, to a smaller fleet", sidecars(100, 0), 20, 20, "ours+consul", "consul"),
		atARate("1,000 changes a second", sidecars(500, 0), 1000, 60, "ours", "ours+consul"),
		growth("services", 10, world{Services: 100, Instances: 10, Streams: 500}, world{Services: 1000, Instances: 10, Streams: 500}, world{Services: 5000, Instances: 10, Streams: 500}),
		growth("instances", 10, world{Services: 200, Instances: 1, Streams: 500}, world{Services: 200, Instances: 10, Streams: 500}, world{Services: 200, Instances: 100, Streams: 500}),
		growth("streams", 10, world{Services: 200, Instances: 10, Streams: 250}, world{Services: 200, Instances: 10, Streams: 1000}, world{Services: 200, Instances: 10, Streams: 4000}),
		sameFault("a fault: a proxy refuses", ten(200), false, aRefusal),
		sameFault("a fault: Consul is wiped", ten(200), false, aWipe),
		sameFault("a fault: the server is killed", ten(200), true, aRestart),
		sameFault("a fault: all connect at once", ten(1000), false, aStorm),
	}

	// What one profile more than another costs.
	hundred = world{Services: 100, Instances: 10, Streams: 2000}

	all    = world{Services: 1000, Instances: 10, Streams: 2000}
	scoped = world{Services: 1000, Instances: 10, Streams: 2000, Scope: 10}
)

func equal(w world) world { w.Equal = true; return w }

func ports(w world) world { w.Ports = true; return w }

// sidecars is the fleet that other meshes were measured with.
func sidecars(streams, scope int) world {
	return world{Services: 100, Instances: 10, Streams: streams, Scope: scope, Replicas: true}
}

// ten is proxies that call ten services.
func ten(streams int) world { return world{Services: 10, Instances: 10, Streams: streams} }

// callers is services, and as many that call ten of them each, all in Consul.
func callers(services, instances int) world {
	return world{Services: services, Instances: instances, Streams: services, Scope: 10, Callers: true}
}

func (w world) String() string {
	scope := "all"
	if w.Scope > 0 {
		scope = fmt.Sprint(w.Scope)
	}
	return fmt.Sprintf("%d streams of %s of %d services of %d instances", w.Streams, scope, w.Services, w.Instances)
}

// growth puts ours through worlds that differ in one number.
func growth(what string, changes int, worlds ...world) experiment {
	return experiment{"growth: " + what, func(ctx context.Context, title string, out *report) error {
		out.table(title, "world", "first sync, CPU s", "MB", "RSS MB", "KB a stream", "change, CPU ms", "allocations", "KB", "p50 ms", "p99 ms", "other cores")
		var sizes []int
		var costs []float64
		for _, w := range worlds {
			r, err := measurement{title: title, kind: "ours", world: w, changes: changes, profiles: out.profiles}.do(ctx)
			if err != nil {
				return err
			}
			out.line(r)
			out.row(w.String(), "%.2f", r.SyncCPU, "%.1f", r.SyncMB, "%.0f", r.RSS, "%.1f", r.StreamKB, "%.1f", r.ChangeCPU*1e3,
				"%.0f", r.ChangeAlloc, "%.1f", r.ChangeKB, "%.1f", r.P50, "%.1f", r.P99, "%.2f", r.Others)
			sizes = append(sizes, map[string]int{"services": w.Services, "instances": w.Instances, "streams": w.Streams}[what])
			costs = append(costs, r.ChangeCPU*1e3)
		}
		out.plot("A change of one endpoint", what, sizes, "CPU ms", costs)
		return nil
	}}
}

// edits puts an edit of one service's routes beside a change of one of its endpoints,
// to streams that have both, without traffic management and with.
func edits(w world, changes int) experiment {
	return experiment{"an edit of routes", func(ctx context.Context, title string, out *report) error {
		out.table(title+": "+w.String(), "world", "change", "first sync, CPU s", "MB", "RSS MB", "change, CPU ms", "to that of an endpoint", "allocations", "bytes a stream", "p50 ms", "p99 ms", "other cores")
		for _, traffic := range []bool{false, true} {
			endpoint := 0.0
			for _, change := range []string{"endpoint", "route"} {
				w := w
				w.Routed, w.Traffic = true, traffic
				if change == "route" {
					w.Change = change
				}
				r, err := measurement{title: title + ", " + change, kind: "ours", world: w, changes: changes, profiles: out.profiles}.do(ctx)
				if err != nil {
					return err
				}
				if change == "endpoint" {
					endpoint = r.ChangeCPU
				}
				out.line(r)
				out.row(nameOf(w), "%s", change, "%.2f", r.SyncCPU, "%.1f", r.SyncMB, "%.0f", r.RSS, "%.1f", r.ChangeCPU*1e3, "%.2f", r.ChangeCPU/endpoint,
					"%.0f", r.ChangeAlloc, "%.0f", r.ChangeKB*1e3/float64(w.Streams), "%.1f", r.P50, "%.1f", r.P99, "%.2f", r.Others)
			}
		}
		return nil
	}}
}

// inEnvoys puts an edit of one service's routes beside a change of one of its endpoints
// in a real Envoy, and beside the same edit where all routes are one configuration.
func inEnvoys(w world, rounds, each int) experiment {
	return experiment{"a real Envoy: a route is edited", func(ctx context.Context, title string, out *report) error {
		out.table(fmt.Sprintf("%s: %d services of %d instances", title, w.Services, w.Instances), "world", "change", "Envoy's CPU ms", "to that of an endpoint", "bytes")
		for _, traffic := range []bool{false, true} {
			w := w
			w.Bare, w.Traffic = true, traffic
			costs, err := envoyCosts(ctx, w, rounds, each)
			if err != nil {
				return err
			}
			for _, c := range costs {
				c.Title = title
				out.line(c)
				out.row(nameOf(w), "%s", c.What, "%.2f", c.CPU, "%.1f", c.CPU/costs[0].CPU, "%.0f", c.Bytes)
			}
		}
		return nil
	}}
}

// nameOf says whether a world has traffic management.
func nameOf(w world) string {
	if w.Traffic {
		return "a tenth in subsets, with routes"
	}
	return "as it was"
}

// inUse puts a change of an endpoint in a world where a tenth of the services have
// subsets and routes beside the same in one where none has, for streams that ask for the
// routes too.
func inUse(title string, w world, changes int, kinds ...string) experiment {
	return experiment{title, func(ctx context.Context, title string, out *report) error {
		out.table(title+": "+w.String(), "server", "world", "first sync, CPU s", "to as it was", "MB", "RSS MB", "KB a stream", "to as it was",
			"change, CPU ms", "to as it was", "allocations", "to as it was", "bytes a subscriber", "p50 ms", "p99 ms", "other cores")
		for _, kind := range kinds {
			var was result
			for _, traffic := range []bool{false, true} {
				w := w
				w.Routed, w.Traffic = true, traffic
				r, err := measurement{title: title, kind: kind, world: w, changes: changes, profiles: out.profiles}.do(ctx)
				if err != nil {
					return err
				}
				if !traffic {
					was = r
				}
				out.line(r)
				out.row(kind, "%s", nameOf(w), "%.2f", r.SyncCPU, "%.2f", r.SyncCPU/was.SyncCPU, "%.0f", r.SyncMB, "%.0f", r.RSS, "%.1f", r.StreamKB, "%.2f", r.StreamKB/was.StreamKB,
					"%.1f", r.ChangeCPU*1e3, "%.2f", r.ChangeCPU/was.ChangeCPU, "%.0f", r.ChangeAlloc, "%.2f", r.ChangeAlloc/was.ChangeAlloc,
					"%.0f", r.ChangeKB*1e3/r.Subscribers, "%.1f", r.P50, "%.1f", r.P99, "%.2f", r.Others)
			}
		}
		return nil
	}}
}

// sideBySide puts servers of different kinds through one world.
func sideBySide(title string, w world, changes int, kinds ...string) experiment {
	return experiment{title, func(ctx context.Context, title string, out *report) error {
		var results []result
		var failed error
		for _, kind := range kinds {
			r, err := measurement{title: title, kind: kind, world: w, changes: changes, profiles: out.profiles}.do(ctx)
			if err != nil {
				failed = err
				break // what there is is still worth its row
			}
			results = append(results, r)
			out.line(r)
		}
		floors := make(map[bool]float64) // by whether it speaks TLS
		for _, r := range results {
			if r.Kind == "floor" || r.Kind == "floor+tls" {
				floors[r.World.DataDir != ""] = r.ChangeCPU
			}
		}
		out.table(title+": "+w.String(),
			"server", "first sync, CPU s", "wall s", "MB", "RSS MB", "KB a stream", "change, CPU ms", "to the floor", "allocations", "KB", "p50 ms", "p99 ms", "last ms", "CPU s of the streams", "other cores")
		for _, r := range results {
			ratio := "-"
			if floor := floors[r.World.DataDir != ""]; floor > 0 {
				ratio = fmt.Sprintf("%.2f", r.ChangeCPU/floor)
			}
			out.row(r.Kind, "%.2f", r.SyncCPU, "%.1f", r.SyncWall, "%.1f", r.SyncMB, "%.0f", r.RSS, "%.1f", r.StreamKB, "%.1f", r.ChangeCPU*1e3,
				"%s", ratio, "%.0f", r.ChangeAlloc, "%.1f", r.ChangeKB, "%.1f", r.P50, "%.1f", r.P99, "%.1f", r.Last, "%.1f", r.ClientCPU, "%.2f", r.Others)
		}
		return failed
	}}
}

// throughConsul is a change of the catalog that goes through a real Consul. For
// "consul" the server's CPU is the registry's too.
func throughConsul(title string, w world, changes int, kinds ...string) experiment {
	return experiment{title, func(ctx context.Context, title string, out *report) error {
		out.table(title+": "+w.String(),
			"server", "first sync, CPU s", "wall s", "RSS MB", "streams a change", "p50 ms", "p99 ms", "ACK of the last, median ms", "slowest ms", "change, CPU ms", "of Consul beside", "CPU s of the streams", "other cores")
		for _, kind := range kinds {
			r, err := measurement{title: title, kind: kind, world: w, changes: changes, profiles: out.profiles}.do(ctx)
			if err != nil {
				return err
			}
			out.line(r)
			out.row(kind, "%.2f", r.SyncCPU, "%.1f", r.SyncWall, "%.0f", r.RSS, "%.0f", r.Subscribers, "%.1f", r.P50, "%.1f", r.P99,
				"%.1f", r.LastACK, "%.1f", r.WorstACK, "%.1f", r.ChangeCPU*1e3, "%.1f", r.BesideCPU*1e3, "%.1f", r.ClientCPU, "%.2f", r.Others)
		}
		return nil
	}}
}

// plainAgent is a catalog in a Consul with its default limits, by HTTP/1.1: fewer
// connections than services.
func plainAgent(title string, w world, changes int, idle time.Duration, what ...string) experiment {
	return experiment{title, func(ctx context.Context, title string, out *report) error {
		out.table(title+": "+w.String(),
			"what changes", "p50 ms", "p99 ms", "ACK of the last, p50 ms", "p99 ms", "change, CPU ms", "of Consul beside",
			"connections", "answers 429", "idle, % of a core", "of Consul", "first sync, CPU s", "RSS MB", "other cores")
		for _, change := range what {
			w.Change = change
			r, err := measurement{title: title + " " + change, kind: "ours+agent", world: w, changes: changes, profiles: out.profiles, idle: idle}.do(ctx)
			if err != nil {
				return err
			}
			out.line(r)
			out.row(change, "%.1f", r.P50, "%.1f", r.P99, "%.1f", r.LastACK, "%.1f", r.P99ACK, "%.1f", r.ChangeCPU*1e3, "%.1f", r.BesideCPU*1e3,
				"%d", r.Connections, "%d", r.TooMany, "%.2f", r.Idle, "%.2f", r.BesideIdle, "%.2f", r.SyncCPU, "%.0f", r.RSS, "%.2f", r.Others)
		}
		return nil
	}}
}

// atARate is changes at a rate, one through each kind of server.
func atARate(title string, w world, rate, seconds int, kinds ...string) experiment {
	return experiment{title, func(ctx context.Context, title string, out *report) error {
		out.table(fmt.Sprintf("%s, for %d s: %s", title, seconds, w),
			"server", "changes a second", "p50 ms", "p99 ms", "worst ms", "first second p50/p99", "last second p50/p99",
			"RSS MB at start/most/end", "sent for each change", "cores", "of Consul", "of the streams", "other cores")
		for _, kind := range kinds {
			r, err := sustained{title: title, kind: kind, world: w, rate: rate, seconds: seconds, profiles: out.profiles}.do(ctx)
			if err != nil {
				return err
			}
			out.line(r)
			out.row(kind, "%.0f", r.Rate, "%.1f", r.P50, "%.1f", r.P99, "%.0f", r.Worst,
				"%s", fmt.Sprintf("%.1f / %.1f", r.FirstP50, r.FirstP99), "%s", fmt.Sprintf("%.1f / %.1f", r.LastP50, r.LastP99),
				"%s", fmt.Sprintf("%.0f / %.0f / %.0f", r.RSSStart, r.RSSMost, r.RSSEnd),
				"%.3f", r.Delivered, "%.2f", r.Cores, "%.2f", r.Beside, "%.2f", r.Clients, "%.2f", r.Others)
		}
		return nil
	}}
}

// translation is the room translate by itself, without traffic management and with.
func translation(sizes ...int) experiment {
	return experiment{"translate", func(_ context.Context, title string, out *report) error {
		var worlds []world
		for _, n := range sizes {
			for _, traffic := range []bool{false, true} {
				worlds = append(worlds, world{Services: n, Instances: 10, Traffic: traffic})
			}
		}
		costs, err := translateCosts(worlds)
		if err != nil {
			return err
		}
		out.table(title, "what changes", "CPU ms", "allocations", "KB allocated")
		for _, c := range costs {
			c.Title = title
			out.line(c)
			out.row(c.What, "%.3f", c.CPU, "%.0f", c.Allocs, "%.1f", c.KB)
		}
		return nil
	}}
}

// identities is the room sds by itself.
func identities(proxies int) experiment {
	return experiment{"sds", func(_ context.Context, title string, out *report) error {
		r, err := identity(proxies)
		if err != nil {
			return err
		}
		r.Title = title
		out.line(r)
		out.table(title, "proxies", "to issue all, CPU s", "floor: bare certificates", "renewals, at most a minute")
		out.row(fmt.Sprint(proxies), "%.2f", r.CPU, "%.2f", r.Floor, "%d", r.Peak)
		return nil
	}}
}

// following is the room watch by itself, by both versions of HTTP.
func following(title string, services, changes int, idle time.Duration) experiment {
	return experiment{title, func(ctx context.Context, title string, out *report) error {
		out.table(title, "mode", "first sync, CPU s", "wall s", "connections", "answers 429", "change to catalog p50 ms", "p99 ms", "floor: one bare query, p50 ms", "idle, % of a core", "of Consul")
		for _, http2 := range []bool{true, false} {
			r, err := catalogWatch(ctx, services, changes, http2, idle)
			if err != nil {
				return err
			}
			r.Title = title
			out.line(r)
			out.row(r.Mode, "%.2f", r.SyncCPU, "%.1f", r.SyncWall, "%d", r.Connections, "%d", r.TooMany, "%.1f", r.P50, "%.1f", r.P99, "%.1f", r.Floor, "%.2f", r.Idle, "%.2f", r.BesideIdle)
		}
		return nil
	}}
}
