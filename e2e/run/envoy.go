package run

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"datapunk.dev/controlplane/internal/tool"
)

// Envoy is a running Envoy.
type Envoy struct {
	*tool.Process
	*EnvoyAdmin
	options EnvoyOptions
}

// EnvoyOptions say how to start an Envoy.
type EnvoyOptions struct {
	Name    string // of its log, and in messages
	Dir     string // of its log
	Config  string // the path of the bootstrap
	Socket  string // of the admin interface, as the bootstrap says
	Env     []string
	Args    []string // added
	Workers int      // 1 if 0
}

// StartEnvoy starts an Envoy and does not wait until it is ready. Its log has
// only warnings and worse.
func StartEnvoy(o EnvoyOptions) (*Envoy, error) {
	e := &Envoy{EnvoyAdmin: &EnvoyAdmin{admin: unixAdmin(o.Socket)}, options: o}
	if err := e.start(); err != nil {
		return nil, err
	}
	return e, nil
}

func (e *Envoy) start() error {
	path, err := tool.Find("envoy")
	if err != nil {
		return err
	}
	o := e.options
	args := append([]string{
		"-c", o.Config, "-l", "warning", "--concurrency", strconv.Itoa(max(1, o.Workers)),
		"--disable-hot-restart", // and so no shared memory between the Envoys of one machine
	}, o.Args...)
	e.Process, err = tool.Start(tool.Command{Name: o.Name, Path: path, Args: args, Env: o.Env, Dir: o.Dir})
	return err
}

// Restart starts an Envoy that has ended again, with an empty log.
func (e *Envoy) Restart() error {
	if e.Running() {
		return fmt.Errorf("%s runs", e.Name)
	}
	return e.start()
}

// WaitReady waits until the Envoy is LIVE: it has its first configuration.
func (e *Envoy) WaitReady(ctx context.Context, timeout time.Duration) error {
	return e.Until(ctx, e.Name+" is ready", timeout, e.Ready)
}

// ofTheStream are the warnings that an Envoy logs when its control plane is
// away, which say nothing about its configuration.
var ofTheStream = regexp.MustCompile(`(Delta|Stream)AggregatedResources gRPC config stream (to \S+ )?closed|` +
	`DeltaAggregatedResources gRPC config: |StreamHealthCheck gRPC config stream (to \S+ )?closed|HdsDelegate stream/connection failure|gRPC config stream closed|upstream connect error or disconnect|` +
	`initial fetch timed out for type.googleapis.com/envoy.service.runtime.v3.Runtime`)

// Warnings returns the lines of the log that are about the configuration:
// all, but those of a lost stream and those that an allowed pattern matches.
func (e *Envoy) Warnings(allowed ...*regexp.Regexp) []string {
	return warnings(e.Log.Lines(), allowed)
}

func warnings(log []string, allowed []*regexp.Regexp) []string {
	var out []string
lines:
	for _, line := range log {
		if strings.TrimSpace(line) == "" || ofTheStream.MatchString(line) {
			continue
		}
		for _, a := range allowed {
			if a.MatchString(line) {
				continue lines
			}
		}
		out = append(out, line)
	}
	return out
}

// EnvoyAdmin reads an Envoy's admin interface.
type EnvoyAdmin struct {
	admin *admin
}

// Ready returns nil when the Envoy is LIVE.
func (a *EnvoyAdmin) Ready() error {
	status, body, err := a.admin.get("/ready")
	if err != nil {
		return err
	}
	if status != http.StatusOK {
		return fmt.Errorf("/ready: %d: %s", status, strings.TrimSpace(string(body)))
	}
	return nil
}

// Stats returns the counters and gauges. Histograms are left out.
func (a *EnvoyAdmin) Stats() (Stats, error) {
	status, body, err := a.admin.get("/stats")
	if err != nil {
		return nil, err
	}
	if status != http.StatusOK {
		return nil, fmt.Errorf("/stats: %d", status)
	}
	stats := make(Stats)
	for line := range strings.Lines(string(body)) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), ": ")
		if !ok {
			continue
		}
		if n, err := strconv.ParseUint(value, 10, 64); err == nil {
			stats[name] = n
		}
	}
	return stats, nil
}

// Stats are counters and gauges by name.
type Stats map[string]uint64

// Deprecated is the number of deprecated features that a configuration used.
func (s Stats) Deprecated() uint64 { return s["runtime.deprecated_feature_use"] }

// Prefix returns the values whose names begin so: for messages.
func (s Stats) Prefix(prefix string) Stats {
	out := make(Stats)
	for name, v := range s {
		if strings.HasPrefix(name, prefix) {
			out[name] = v
		}
	}
	return out
}

// Cluster is what an Envoy knows of an upstream.
type Cluster struct {
	Name  string `json:"name"`
	Hosts []Host `json:"host_statuses"`
}

// Host is one endpoint of a Cluster.
type Host struct {
	Address struct {
		Socket struct {
			Address string `json:"address"`
			Port    int    `json:"port_value"`
		} `json:"socket_address"`
	} `json:"address"`
	Health struct {
		EDS                string `json:"eds_health_status"`
		FailedOutlierCheck bool   `json:"failed_outlier_check"`
		FailedActiveCheck  bool   `json:"failed_active_health_check"`
	} `json:"health_status"`
	Weight int `json:"weight"`
}

// Clusters returns the upstreams by name.
func (a *EnvoyAdmin) Clusters() (map[string]Cluster, error) {
	var answer struct {
		Statuses []Cluster `json:"cluster_statuses"`
	}
	if err := a.admin.json("/clusters?format=json", &answer); err != nil {
		return nil, err
	}
	out := make(map[string]Cluster, len(answer.Statuses))
	for _, c := range answer.Statuses {
		out[c.Name] = c
	}
	return out, nil
}

// Certificate is one that an Envoy holds.
type Certificate struct {
	Path    string    `json:"path"`
	Serial  string    `json:"serial_number"`
	From    time.Time `json:"valid_from"`
	Expires time.Time `json:"expiration_time"`
	SANs    []struct {
		URI string `json:"uri"`
		DNS string `json:"dns"`
	} `json:"subject_alt_names"`
}

// URI returns the certificate's first URI SAN, empty if it has none.
func (c Certificate) URI() string {
	for _, san := range c.SANs {
		if san.URI != "" {
			return san.URI
		}
	}
	return ""
}

// Certs returns the leaf certificates that the Envoy shows, and the roots that
// it trusts, each once by serial number.
func (a *EnvoyAdmin) Certs() (leaves, roots []Certificate, err error) {
	var answer struct {
		Certificates []struct {
			CA    []Certificate `json:"ca_cert"`
			Chain []Certificate `json:"cert_chain"`
		} `json:"certificates"`
	}
	if err := a.admin.json("/certs", &answer); err != nil {
		return nil, nil, err
	}
	seen := make(map[string]bool)
	add := func(to []Certificate, certs []Certificate) []Certificate {
		for _, c := range certs {
			if !seen[c.Serial] {
				seen[c.Serial] = true
				to = append(to, c)
			}
		}
		return to
	}
	for _, c := range answer.Certificates {
		leaves, roots = add(leaves, c.Chain), add(roots, c.CA)
	}
	return leaves, roots, nil
}

// ConfigDump returns everything that the Envoy runs, EDS included.
func (a *EnvoyAdmin) ConfigDump() (*Dump, error) {
	var answer struct {
		Configs []map[string]json.RawMessage `json:"configs"`
	}
	if err := a.admin.json("/config_dump?include_eds", &answer); err != nil {
		return nil, err
	}
	return parseDump(answer.Configs)
}
