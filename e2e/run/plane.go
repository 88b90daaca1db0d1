package run

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"datapunk.dev/controlplane/internal/tool"
)

// PlaneOptions say how to start a control plane.
type PlaneOptions struct {
	Name        string // of its log; "controlplane" if empty
	Binary      string
	Dir         string // of its log
	Files       []string
	Environment string
	Catalog     string // consul or file:PATH; empty: as the mesh file says
	XDSAddress  string
	Admin       string
	DataDir     string
	Plaintext   bool
	Flags       []string // added
	Env         []string
	Stderr      *os.File // its standard error, if not its log
}

// ControlPlane is a running control plane, or one that was stopped and can be
// started again at the same addresses.
type ControlPlane struct {
	*tool.Process
	options PlaneOptions
	admin   *admin
}

// StartControlPlane starts `controlplane serve` and does not wait until it is
// ready.
func StartControlPlane(o PlaneOptions) (*ControlPlane, error) {
	if o.Name == "" {
		o.Name = "controlplane"
	}
	c := &ControlPlane{options: o, admin: tcpAdmin(o.Admin)}
	if err := c.Start(); err != nil {
		return nil, err
	}
	return c, nil
}

// Start starts it again after it was stopped or killed, with an empty log.
func (c *ControlPlane) Start() error {
	if c.Process != nil && c.Running() {
		return fmt.Errorf("%s runs", c.Name)
	}
	p, err := tool.Start(tool.Command{
		Name: c.options.Name, Path: c.options.Binary, Args: c.options.args(), Env: c.options.Env, Dir: c.options.Dir, Stderr: c.options.Stderr,
	})
	if err != nil {
		return err
	}
	c.Process = p
	return nil
}

func (o PlaneOptions) args() []string {
	args := []string{"serve"}
	for _, f := range o.Files {
		args = append(args, "-f", f)
	}
	optional := func(flag, value string) {
		if value != "" {
			args = append(args, flag, value)
		}
	}
	optional("--environment", o.Environment)
	optional("--catalog", o.Catalog)
	optional("--xds-address", o.XDSAddress)
	optional("--admin-address", o.Admin)
	optional("--data-dir", o.DataDir)
	if o.Plaintext {
		args = append(args, "--xds-plaintext")
	}
	return append(args, o.Flags...)
}

// Options returns how it was started, to start another like it.
func (c *ControlPlane) Options() PlaneOptions { return c.options }

// XDSAddress returns where Envoys connect.
func (c *ControlPlane) XDSAddress() string { return c.options.XDSAddress }

// AdminAddress returns where its HTTP interface listens.
func (c *ControlPlane) AdminAddress() string { return c.options.Admin }

// DataDir is its data directory.
func (c *ControlPlane) DataDir() string { return c.options.DataDir }

// CAFile returns the path of the root that its certificates chain to.
func (c *ControlPlane) CAFile() string { return filepath.Join(c.options.DataDir, "ca.pem") }

// Readiness is what /readyz says.
type Readiness struct {
	Ready    bool     `json:"ready"`
	Waiting  []string `json:"waiting"`
	Holding  []string `json:"holding"`
	Problems []string `json:"problems"`
}

// Readyz returns the status and the body of /readyz.
func (c *ControlPlane) Readyz() (int, Readiness, error) {
	var r Readiness
	status, body, err := c.admin.get("/readyz")
	if err != nil {
		return 0, r, err
	}
	if err := json.Unmarshal(body, &r); err != nil {
		return status, r, fmt.Errorf("/readyz: %w: %.200s", err, body)
	}
	return status, r, nil
}

// WaitReady waits until /readyz is 200.
func (c *ControlPlane) WaitReady(ctx context.Context, timeout time.Duration) error {
	return c.Until(ctx, c.Name+" is ready", timeout, func() error {
		status, r, err := c.Readyz()
		if err != nil {
			return err
		}
		if status != http.StatusOK {
			return fmt.Errorf("/readyz: %d: waits for %q", status, r.Waiting)
		}
		return nil
	})
}

// Get returns the status and the body of any path of the admin address.
func (c *ControlPlane) Get(path string) (int, string, error) {
	status, body, err := c.admin.get(path)
	return status, string(body), err
}

// Proxy is one entry of /api/v1/proxies.
type Proxy struct {
	Node        string               `json:"node"`
	Service     string               `json:"service"`
	Peer        string               `json:"peer"`
	Protocol    string               `json:"protocol"`
	Connected   time.Time            `json:"connected"`
	Missing     []string             `json:"missing"`
	Types       map[string]ProxyType `json:"types"`
	Certificate *struct {
		Version string     `json:"version"`
		Serial  string     `json:"serial"`
		Expires *time.Time `json:"expires"`
	} `json:"certificate"`
}

// Registration is one entry of /api/v1/registrations.
type Registration struct {
	ID      string    `json:"id"`
	Service string    `json:"service"`
	State   string    `json:"state"`
	Owner   string    `json:"owner"`
	Since   time.Time `json:"since"`
	Reason  string    `json:"reason"`
}

// Registrations returns what the control plane knows of who is in the catalog.
func (c *ControlPlane) Registrations() ([]Registration, error) {
	var answer struct {
		Registrations []Registration `json:"registrations"`
	}
	err := c.admin.json("/api/v1/registrations", &answer)
	return answer.Registrations, err
}

// ProxyType is the state of one type of resources on a proxy.
type ProxyType struct {
	State        string `json:"state"`
	Sent         string `json:"version_sent"`
	Acknowledged string `json:"version_acknowledged"`
	LastNack     *Nack  `json:"last_nack"`
}

// Nack is a response that a proxy refused.
type Nack struct {
	Message   string   `json:"message"`
	Resources []string `json:"resources"`
	Resource  string   `json:"resource"`
	Source    string   `json:"source"`
	Cause     string   `json:"cause"`
}

// Synced returns nil if the proxy has all that it should have.
func (p *Proxy) Synced() error {
	for typ, s := range p.Types {
		if s.LastNack != nil && s.State == "REJECTED" {
			return fmt.Errorf("%s: %s is REJECTED: %s", p.Node, typ, s.LastNack.Message)
		}
		if s.State != "SYNCED" && s.State != "NOT_SENT" {
			return fmt.Errorf("%s: %s is %s", p.Node, typ, s.State)
		}
	}
	for _, typ := range []string{"cluster", "listener"} {
		if p.Types[typ].State != "SYNCED" {
			return fmt.Errorf("%s: %s is %q", p.Node, typ, p.Types[typ].State)
		}
	}
	return nil
}

// Proxies returns the connected proxies by node.id.
func (c *ControlPlane) Proxies() (map[string]Proxy, error) {
	var answer struct {
		Proxies []Proxy `json:"proxies"`
	}
	if err := c.admin.json("/api/v1/proxies", &answer); err != nil {
		return nil, err
	}
	out := make(map[string]Proxy, len(answer.Proxies))
	for _, p := range answer.Proxies {
		out[p.Node] = p
	}
	return out, nil
}

// WaitSynced waits until the nodes are connected and have all that they should.
func (c *ControlPlane) WaitSynced(ctx context.Context, timeout time.Duration, nodes ...string) error {
	return tool.Until(ctx, fmt.Sprintf("%q are synced", nodes), timeout, func() error {
		proxies, err := c.Proxies()
		if err != nil {
			return err
		}
		for _, node := range nodes {
			p, ok := proxies[node]
			if !ok {
				return fmt.Errorf("%s is not connected", node)
			}
			if err := p.Synced(); err != nil {
				return err
			}
		}
		return nil
	})
}

// Metrics are the samples of /metrics: counters, gauges, and of histograms the
// _count and _sum, by name and labels: `pushes_total{type="cluster"}`.
type Metrics map[string]float64

// Metrics reads /metrics.
func (c *ControlPlane) Metrics() (Metrics, error) {
	status, body, err := c.admin.get("/metrics")
	if err != nil {
		return nil, err
	}
	if status != http.StatusOK {
		return nil, fmt.Errorf("/metrics: %d", status)
	}
	return ParseMetrics(body)
}

// ParseMetrics reads Prometheus's text format.
func ParseMetrics(text []byte) (Metrics, error) {
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	out := make(Metrics)
	for name, family := range families {
		for _, m := range family.GetMetric() {
			labels := make(model.LabelSet)
			for _, l := range m.GetLabel() {
				labels[model.LabelName(l.GetName())] = model.LabelValue(l.GetValue())
			}
			key := func(suffix string) string {
				if len(labels) == 0 {
					return name + suffix
				}
				return name + suffix + labels.String()
			}
			switch {
			case m.Counter != nil:
				out[key("")] = m.GetCounter().GetValue()
			case m.Gauge != nil:
				out[key("")] = m.GetGauge().GetValue()
			case m.Untyped != nil:
				out[key("")] = m.GetUntyped().GetValue()
			case m.Histogram != nil:
				out[key("_count")] = float64(m.GetHistogram().GetSampleCount())
				out[key("_sum")] = m.GetHistogram().GetSampleSum()
			case m.Summary != nil:
				out[key("_count")] = float64(m.GetSummary().GetSampleCount())
				out[key("_sum")] = m.GetSummary().GetSampleSum()
			}
		}
	}
	return out, nil
}

// Build builds the control plane into dir and returns its path. Extra flags go
// to go build.
func Build(dir string, flags ...string) (string, error) {
	out := filepath.Join(dir, "controlplane")
	args := append([]string{"build", "-o", out}, flags...)
	cmd := exec.Command("go", append(args, "./cmd/controlplane")...)
	cmd.Dir = tool.Root()
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build ./cmd/controlplane: %w\n%s", err, text)
	}
	return out, nil
}
