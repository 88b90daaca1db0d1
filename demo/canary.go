package main

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"datapunk.dev/controlplane/e2e/traffic"
	"datapunk.dev/controlplane/internal/tool"
)

// canaryRoutes is what the step adds to the mesh file: two versions as two
// subsets, a header for testers, and a split.
const canaryRoutes = `  services:
    lake_service:
      subsets: {stable: {version: "2.0.1"}, canary: {version: "2.1.0"}}
      default_subset: stable
  routes:
    - {name: testers, service: lake_service, match: [{headers: [{name: x-canary, exact: always}]}], split: [{subset: canary}]}
    - {name: canary, service: lake_service, split: [{subset: stable, weight: 95}, {subset: canary, weight: 5}]}
`

// canary gives a part of the requests to the new version, as docs/traffic.md says.
func (d *demo) canary(ctx context.Context) error {
	const before = "  telemetry:\n"
	at := time.Now()
	undo, err := d.change(before, canaryRoutes+before)
	if err != nil {
		return err
	}
	tester := traffic.Request{Host: "lake_service", Header: http.Header{"X-Canary": {"always"}}}
	if err := d.untilAnsweredBy(ctx, tester, "lake-2"); err != nil {
		return err
	}
	d.screen.saw("with `x-canary: always` a tester has lake-2, version 2.1.0, within %s of the edit", seconds(time.Since(at)))
	if err := d.share(ctx, 3000, 3, 7.5); err != nil {
		return err
	}
	if _, err := d.change("weight: 95}, {subset: canary, weight: 5}", "weight: 50}, {subset: canary, weight: 50}"); err != nil {
		return err
	}
	if err := tool.Until(ctx, "half of the requests go to lake-2", effectTime, func() error { return d.between(ctx, 200, 30, 70) }); err != nil {
		return err
	}
	if err := d.share(ctx, 1000, 42, 58); err != nil {
		return err
	}
	if _, err := d.change("weight: 50}]}", "weight: 50}], mirror: {service: stream_service, percent: 100}}"); err != nil {
		return err
	}
	shadow := d.machines["stream-1"].App
	err = tool.Until(ctx, "stream_service gets copies", effectTime, func() error {
		shadow.Forget()
		if _, err := d.client.Get(ctx, "lake_service", "/copied"); err != nil {
			return err
		}
		return tool.Until(ctx, "a copy arrives", time.Second, func() error {
			for _, a := range shadow.Arrivals() {
				if a.Path == "/copied" && a.Header.Get("x-mesh-mirror") == "true" {
					return nil
				}
			}
			return fmt.Errorf("%d requests and no copy", shadow.Count())
		})
	})
	if err != nil {
		return err
	}
	d.screen.saw("with a mirror stream-1 gets a copy of each, and nobody waits for its answer")
	if err := undo(); err != nil {
		return err
	}
	d.screen.note("taken out again: an edit that removes much waits until the file has rested for 5 s")
	return d.untilAnsweredBy(ctx, tester, "lake-1", "lake-2")
}

// untilAnsweredBy waits until a row of equal requests is answered by exactly these.
func (d *demo) untilAnsweredBy(ctx context.Context, r traffic.Request, ids ...string) error {
	return tool.Until(ctx, fmt.Sprintf("it is answered by %v alone", ids), effectTime, func() error {
		got := traffic.Load{Addr: d.nexus.Outbound(), Request: r, Requests: 30, Concurrency: 1}.Do(ctx)
		if err := failures(got); err != nil {
			return err
		}
		if by := slices.Sorted(maps.Keys(got.Instances)); !slices.Equal(by, ids) {
			return fmt.Errorf("by %v", by)
		}
		return nil
	})
}

// between returns an error unless the canary's share of some requests is between
// two percentages.
func (d *demo) between(ctx context.Context, requests int, least, most float64) error {
	r := traffic.Load{Addr: d.nexus.Outbound(), Request: traffic.Request{Host: "lake_service"}, Requests: requests, Concurrency: 4}.Do(ctx)
	if err := failures(r); err != nil {
		return err
	}
	if share := 100 * float64(r.Instances["lake-2"]) / float64(requests); share < least || share > most {
		return fmt.Errorf("%.1f %% went to lake-2: %s", share, r)
	}
	return nil
}

// share shows who answered some requests, and holds the canary's part to bounds.
func (d *demo) share(ctx context.Context, requests int, least, most float64) error {
	r := traffic.Load{Addr: d.nexus.Outbound(), Request: traffic.Request{Host: "lake_service"}, Requests: requests, Concurrency: 4}.Do(ctx)
	if err := failures(r); err != nil {
		return err
	}
	var served []string
	for _, id := range slices.Sorted(maps.Keys(r.Instances)) {
		served = append(served, fmt.Sprintf("%s %d", id, r.Instances[id]))
	}
	share := 100 * float64(r.Instances["lake-2"]) / float64(requests)
	d.screen.saw("%d requests: %s, so %.1f %% went to the canary", requests, strings.Join(served, ", "), share)
	if share < least || share > most {
		return fmt.Errorf("%.1f %% is not between %g and %g", share, least, most)
	}
	return nil
}
