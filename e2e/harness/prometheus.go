package harness

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"testing"
	"time"

	"datapunk.dev/controlplane/e2e/run"
	"datapunk.dev/controlplane/internal/tool"
)

// Prometheus is a running Prometheus.
type Prometheus struct {
	*tool.Process
	base string
}

// StartPrometheus starts Prometheus with a configuration file.
func StartPrometheus(t testing.TB, config string) *Prometheus {
	t.Helper()
	path, err := tool.Find("prometheus")
	must(t, err)
	dir := Dir(t)
	file := filepath.Join(dir, "prometheus.yml")
	must(t, run.WriteFile(file, config))
	addr := fmt.Sprintf("127.0.0.1:%d", Port(t))
	process, err := tool.Start(tool.Command{Name: "prometheus", Path: path, Dir: dir, Args: []string{
		"--config.file=" + file, "--storage.tsdb.path=" + filepath.Join(dir, "tsdb"), "--web.listen-address=" + addr, "--log.level=warn",
	}})
	must(t, err)
	t.Cleanup(func() {
		if err := process.Stop(); err != nil {
			t.Error(err)
		}
	})
	p := &Prometheus{Process: process, base: "http://" + addr}
	Eventually(t, "prometheus is ready", 30*time.Second, func() error {
		resp, err := http.Get(p.base + "/-/ready")
		if err != nil {
			return err
		}
		defer func() { _ = resp.Body.Close() }()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("/-/ready: %d", resp.StatusCode)
		}
		return nil
	})
	return p
}

// Target is one that Prometheus scrapes.
type Target struct {
	Labels    map[string]string `json:"labels"`
	ScrapeURL string            `json:"scrapeUrl"`
	Health    string            `json:"health"` // up, down, unknown
	LastError string            `json:"lastError"`
	Interval  string            `json:"scrapeInterval"`
	Timeout   string            `json:"scrapeTimeout"`
}

// Targets returns the active targets.
func (p *Prometheus) Targets() ([]Target, error) {
	var data struct {
		Active []Target `json:"activeTargets"`
	}
	return data.Active, p.api("/api/v1/targets?state=active", &data)
}

// Sample is one value of an instant query.
type Sample struct {
	Labels map[string]string
	Value  string
}

// Query returns the samples of an instant query.
func (p *Prometheus) Query(query string) ([]Sample, error) {
	var data struct {
		Result []struct {
			Metric map[string]string `json:"metric"`
			Value  [2]any            `json:"value"`
		} `json:"result"`
	}
	if err := p.api("/api/v1/query?query="+url.QueryEscape(query), &data); err != nil {
		return nil, err
	}
	out := make([]Sample, len(data.Result))
	for i, r := range data.Result {
		out[i] = Sample{Labels: r.Metric, Value: fmt.Sprint(r.Value[1])}
	}
	return out, nil
}

func (p *Prometheus) api(path string, into any) error {
	resp, err := http.Get(p.base + path)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	var answer struct {
		Status string          `json:"status"`
		Error  string          `json:"error"`
		Data   json.RawMessage `json:"data"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return fmt.Errorf("prometheus %s: %w: %.200s", path, err, body)
	}
	if answer.Status != "success" {
		return fmt.Errorf("prometheus %s: %s", path, answer.Error)
	}
	return json.Unmarshal(answer.Data, into)
}
