package control

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics of the process as a whole; xds registers its own. Labels are
// bounded: no service, no node, no error text.
var (
	descMesh = prometheus.NewDesc("controlplane_mesh_info",
		"The mesh file in force: its name, version and the hash of its content.", []string{"name", "version", "revision"}, nil)
	descReloads = prometheus.NewDesc("controlplane_mesh_reloads_total",
		"Mesh files put into force since the start.", nil, nil)
	descReloadErrors = prometheus.NewDesc("controlplane_mesh_reload_errors_total",
		"Mesh files refused since the start.", nil, nil)
	descRejected = prometheus.NewDesc("controlplane_mesh_rejected",
		"1 while the newest mesh file is refused and the last good one is in force.", nil, nil)
	descMeshHeld = prometheus.NewDesc("controlplane_mesh_held",
		"1 while the newest mesh file loads and waits, because it opens or removes much, or is a beginning of the last one.", nil, nil)
	descMeshTakenBack = prometheus.NewDesc("controlplane_mesh_taken_back_total",
		"Mesh files that were taken back from the proxies that had them first.", nil, nil)
	descMeshCanaries = prometheus.NewDesc("controlplane_mesh_canaries",
		"Proxies that have a mesh file which the others have not yet.", nil, nil)
	descMeshPinned = prometheus.NewDesc("controlplane_mesh_pinned",
		"1 while a revision of the mesh file is served that an operator has pinned.", nil, nil)
	descMeshKept = prometheus.NewDesc("controlplane_mesh_kept",
		"1 while the mesh file in force is the one kept in the data directory, because that on disk was bad at the start.", nil, nil)
	descKeepErrors = prometheus.NewDesc("controlplane_mesh_keep_errors_total",
		"Mesh files that could not be kept for the next start.", nil, nil)
	descReady = prometheus.NewDesc("controlplane_catalog_ready",
		"1 while the catalog's source is read whole and without failure; else the last good catalog is served.", nil, nil)
	descHeld = prometheus.NewDesc("controlplane_catalog_held",
		"Services with removals that are held back until they are confirmed.", nil, nil)
	descRemovals = prometheus.NewDesc("controlplane_catalog_removals_held_total",
		"Removals that were not believed at once, of the current source.", nil, nil)
	descRemovalsEnded = prometheus.NewDesc("controlplane_catalog_removals_ended_total",
		"What became of removals that were held, of the current source: back, confirmed, ordinary, left (the sidecars have), accepted, unselected (the mesh file leaves them out).", []string{"outcome"}, nil)
	descRemovalsDecided = prometheus.NewDesc("controlplane_catalog_removals_decided_total",
		"Removals that people accepted or refused by the admin address.", []string{"decision"}, nil)
	descLeftOut = prometheus.NewDesc("controlplane_catalog_left_out",
		"Entries of the catalog that are not served as instances of their own; the log says which, and why.", nil, nil)
	descWithout = prometheus.NewDesc("controlplane_catalog_remembered_services",
		"Services without an instance that are known because they had one.", nil, nil)
	descRecalled = prometheus.NewDesc("controlplane_catalog_recalled_age_seconds",
		"Age of the catalog of the disk, while it is served because its source has said nothing since the start; 0 else.", nil, nil)
	descNotKept = prometheus.NewDesc("controlplane_catalog_keep_errors_total",
		"Failures to keep the catalog in the data directory for a restart.", nil, nil)
	descRefusalsNotKept = prometheus.NewDesc("controlplane_refusals_keep_errors_total",
		"Failures to keep in the data directory, for a restart, what proxies refused.", nil, nil)
	descQueries = prometheus.NewDesc("controlplane_consul_queries_total",
		"Requests sent to Consul by the current source.", nil, nil)
	descQueryErrors = prometheus.NewDesc("controlplane_consul_query_errors_total",
		"Requests to Consul that failed, for whatever reason.", nil, nil)
	descFresh = prometheus.NewDesc("controlplane_consul_answer_age_seconds",
		"How long ago what Consul says was last known not to be old: its server was in touch with its leader, and answered.", nil, nil)
	descDatacenterFresh = prometheus.NewDesc("controlplane_consul_datacenter_answer_age_seconds",
		"The same of each datacenter, where the mesh file names several.", []string{"datacenter"}, nil)
	descDatacenterReady = prometheus.NewDesc("controlplane_consul_datacenter_ready",
		"1 while a datacenter is read whole and without failure, where the mesh file names several; else its last good instances are served.", []string{"datacenter"}, nil)
	descTooMany = prometheus.NewDesc("controlplane_consul_too_many_requests_total",
		"Requests that Consul's own limits refused (429).", nil, nil)
	descWakes = prometheus.NewDesc("controlplane_consul_wakes_total",
		"Blocking queries that came back, with a change or without.", nil, nil)
	descCatalogs = prometheus.NewDesc("controlplane_consul_catalogs_total",
		"Catalogs that differed from the one before.", nil, nil)
	descWatched = prometheus.NewDesc("controlplane_consul_watched_services",
		"Services watched now.", nil, nil)
	descCold = prometheus.NewDesc("controlplane_consul_cold_services",
		"Services watched without a connection of their own, over the budget of HTTP/1.1.", nil, nil)
	descLogDropped = prometheus.NewDesc("controlplane_log_lines_dropped_total",
		"Log lines left out because they were not read in time, or could not be written.", nil, nil)
	descRead = prometheus.NewDesc("controlplane_catalog_read_timestamp_seconds",
		"When the source of the catalog in force last answered.", nil, nil)
	descMaxAge = prometheus.NewDesc("controlplane_catalog_max_age_seconds",
		"How old the catalog of the disk may be before this replica is not ready (--max-catalog-age).", nil, nil)
	descFallback = prometheus.NewDesc("controlplane_consul_on_fallback",
		"1 while another of Consul's addresses is asked than the first.", nil, nil)
	descHolding = prometheus.NewDesc("controlplane_holding",
		"What is served as it was last instead of as it is now, by reason: what /readyz has as holding.", []string{"reason"}, nil)
	descPublished = prometheus.NewDesc("controlplane_snapshot_timestamp_seconds",
		"When the snapshot in force was published.", nil, nil)
	descBehind = prometheus.NewDesc("controlplane_snapshot_behind_seconds",
		"For how long there has been an input that the snapshot in force is not made of. 0: it is the newest.", nil, nil)
	descInForce = prometheus.NewDesc("controlplane_mesh_in_force_timestamp_seconds",
		"When the mesh file in force came into force.", nil, nil)
	descBuilds = prometheus.NewDesc("controlplane_snapshots_total",
		"Snapshots made since the start.", nil, nil)
	descBuildTime = prometheus.NewDesc("controlplane_snapshot_build_seconds_total",
		"Time spent on making snapshots.", nil, nil)
	descPanics = prometheus.NewDesc("controlplane_snapshot_panics_total",
		"Panics in making or publishing a snapshot; what did not cause them goes on.", nil, nil)
	descFailing = prometheus.NewDesc("controlplane_snapshot_failing",
		"1 while the newest input panics, and the last snapshot, or a part of its input, is in force.", nil, nil)
	descResourcesHeld = prometheus.NewDesc("controlplane_resources_held",
		"Resources that failed a check, and whose last good state is served.", nil, nil)
	descRefused = prometheus.NewDesc("controlplane_xds_clients_refused_total",
		"Calls to the xDS port refused for want of a valid token.", nil, nil)
	descContested = prometheus.NewDesc("controlplane_xds_contested_nodes",
		"node.ids that two proxies use, each ending the streams of the other.", nil, nil)
	descJoined = prometheus.NewDesc("controlplane_machines_joined_total",
		"Machines that have joined: that were given the token of a node.", nil, nil)
	descJoinsRefused = prometheus.NewDesc("controlplane_joins_refused_total",
		"Joins of machines that were refused, for whatever reason.", nil, nil)
	descLeaving = prometheus.NewDesc("controlplane_leaving_instances",
		"Instances of the catalog that have said that they leave: nobody is to call them.", nil, nil)
	descIssued = prometheus.NewDesc("controlplane_svids_issued_total",
		"Certificates issued to proxies.", nil, nil)
	descIssueErrors = prometheus.NewDesc("controlplane_svid_errors_total",
		"Certificates that could not be issued.", nil, nil)
	descIssueFailing = prometheus.NewDesc("controlplane_svids_failing",
		"Proxies whose certificate could not be renewed when it was due, and is tried again.", nil, nil)
	descMargin = prometheus.NewDesc("controlplane_svid_margin_seconds",
		"How long before it ends a proxy's certificate is renewed at the latest, as the mesh file says.", nil, nil)
	descExpiry = prometheus.NewDesc("controlplane_svid_earliest_expiry_timestamp_seconds",
		"When the first of the proxies' certificates expires.", nil, nil)
	descRootExpiry = prometheus.NewDesc("controlplane_root_expiry_timestamp_seconds",
		"When the root certificate expires.", nil, nil)
)

// observe has the histograms filled: of how long Consul takes to answer, and of how long
// a change takes from there, and an edit from its file, to the last proxy's ACK.
func (p *Plane) observe() {
	answers := prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "controlplane_consul_answer_seconds", Help: "How long Consul took to answer, of requests that do not block.",
		Buckets: prometheus.ExponentialBuckets(0.001, 2, 14),
	})
	ofCatalog := prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "controlplane_catalog_convergence_seconds", Help: "From when Consul told of a change to when the last proxy that it concerns has acknowledged it. One change a second is measured.",
		Buckets: prometheus.ExponentialBuckets(0.001, 2, 17),
	})
	ofMesh := prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "controlplane_mesh_convergence_seconds", Help: "From when the mesh file was written to when the last proxy that the edit concerns has acknowledged it.",
		Buckets: prometheus.ExponentialBuckets(0.001, 2, 17),
	})
	p.Metrics.MustRegister(answers, ofCatalog, ofMesh)
	p.catalogs.ObserveAnswers(func(d time.Duration) { answers.Observe(d.Seconds()) })
	p.loop.ObserveConvergence(func(ctx context.Context) <-chan struct{} { return p.xds.ChangeAcked(ctx) },
		func(d time.Duration) { ofCatalog.Observe(d.Seconds()) }, func(d time.Duration) { ofMesh.Observe(d.Seconds()) })
}

// Describe implements prometheus.Collector.
func (p *Plane) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(p, ch) }

// Collect implements prometheus.Collector.
func (p *Plane) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counter := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, labels...)
	}
	if p.LogDropped != nil {
		counter(descLogDropped, float64(p.LogDropped()))
	}
	m := p.serving()
	gauge(descMesh, 1, m.Name, m.Version, m.Revision)

	p.mu.Lock()
	gauge(descInForce, timestamp(p.inForce))
	counter(descReloads, float64(p.reloads))
	counter(descReloadErrors, float64(p.reloadErrors))
	counter(descRefused, float64(p.unauthorized))
	gauge(descRejected, number(p.rejected != nil))
	gauge(descMeshHeld, number(p.hold != nil))
	gauge(descMeshPinned, number(p.pin != nil))
	counter(descMeshTakenBack, float64(p.takenBack))
	gauge(descMeshKept, number(p.keptAt != ""))
	counter(descKeepErrors, float64(p.keepErrors))
	counter(descRemovalsDecided, float64(p.removalsAccepted), "accept")
	counter(descRemovalsDecided, float64(p.removalsRefused), "refuse")
	p.mu.Unlock()

	counts := make(map[holdReason]int, len(holdReasons))
	holds, _ := p.holds()
	for _, h := range holds {
		counts[h.reason]++
	}
	for _, reason := range holdReasons {
		gauge(descHolding, float64(counts[reason]), string(reason))
	}
	source := p.catalogs.Status()
	if !source.LastSuccess.IsZero() {
		gauge(descRead, timestamp(source.LastSuccess))
	}
	gauge(descReady, number(source.Ready && len(source.Waiting) == 0))
	gauge(descHeld, float64(source.HeldServices))
	gauge(descWithout, float64(p.catalogs.Remembered()))
	gauge(descRecalled, p.catalogs.Recalled().Seconds())
	if !p.Plaintext {
		gauge(descMaxAge, p.MaxCatalogAge.Seconds())
	}
	counter(descNotKept, float64(p.catalogs.KeepErrors()))
	notKept, _ := p.refusals.failures()
	counter(descRefusalsNotKept, float64(notKept))
	if s, ok := p.catalogs.Consul(); ok {
		counter(descQueries, float64(s.Queries))
		counter(descQueryErrors, float64(s.Errors))
		if !s.Fresh.IsZero() {
			gauge(descFresh, time.Since(s.Fresh).Seconds())
		}
		for _, d := range s.Datacenters {
			gauge(descDatacenterReady, number(d.Ready), d.Name)
			if !d.Fresh.IsZero() {
				gauge(descDatacenterFresh, time.Since(d.Fresh).Seconds(), d.Name)
			}
		}
		counter(descRemovals, float64(s.Held))
		for outcome, n := range s.Decided {
			counter(descRemovalsEnded, float64(n), outcome)
		}
		counter(descTooMany, float64(s.TooMany))
		counter(descWakes, float64(s.Wakes))
		counter(descCatalogs, float64(s.Emitted))
		gauge(descFallback, number(s.OnFallback))
		gauge(descWatched, float64(s.Services))
		gauge(descCold, float64(s.Cold))
	}
	p.registrations.collect(gauge, counter)
	p.collectReplicas(gauge, counter)
	counter(descJoined, float64(p.joined.Load()))
	counter(descJoinsRefused, float64(p.joinsRefused.Load()))
	gauge(descLeaving, float64(len(p.leaving.Marks())))
	gauge(descContested, float64(len(p.xds.Contests())))
	loop := p.loop.Status()
	canaries := 0
	if w := loop.Waves; w != nil && w.Why == "" {
		canaries = w.Has
	}
	gauge(descMeshCanaries, float64(canaries))
	counter(descBuilds, float64(loop.Builds))
	counter(descBuildTime, loop.BuildTime.Seconds())
	counter(descPanics, float64(loop.Panics))
	gauge(descFailing, number(loop.Failure != nil))
	if loop.Snapshot != nil {
		gauge(descPublished, timestamp(loop.Published))
		gauge(descBehind, since(loop.Behind).Seconds())
		gauge(descResourcesHeld, float64(len(loop.Snapshot.Held)))
		left := 0
		for s := range loop.Snapshot.Input.Catalog.Services() {
			left += len(s.Excluded)
		}
		gauge(descLeftOut, float64(left))
	}
	if p.svids != nil {
		s := p.svids.Stats()
		counter(descIssued, float64(s.Issued))
		counter(descIssueErrors, float64(s.Failed))
		gauge(descIssueFailing, float64(s.Failing))
		gauge(descMargin, (m.MTLS.CertTTL - m.MTLS.CertRotation).Seconds())
		if !s.EarliestExpiry.IsZero() {
			gauge(descExpiry, float64(s.EarliestExpiry.Unix()))
		}
		gauge(descRootExpiry, float64(s.RootExpires.Unix()))
		p.collectRoots(gauge)
	}
}

func timestamp(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }

// since is how long ago t was; 0 if it never was.
func since(t time.Time) time.Duration {
	if t.IsZero() {
		return 0
	}
	return time.Since(t)
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
