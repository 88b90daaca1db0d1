package harness

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"testing"
	"time"

	"datapunk.dev/controlplane/internal/tool"
)

// Toxiproxy is a running toxiproxy, whose links are slow, hang or break when they are
// told to.
type Toxiproxy struct {
	t   testing.TB
	api string
}

// StartToxiproxy runs one until the test ends.
func StartToxiproxy(t testing.TB) *Toxiproxy {
	t.Helper()
	path, err := tool.Find("toxiproxy")
	must(t, err)
	port := strconv.Itoa(Port(t))
	p, err := tool.Start(tool.Command{Name: "toxiproxy", Path: path, Args: []string{"-host", "127.0.0.1", "-port", port}, Dir: Dir(t)})
	must(t, err)
	t.Cleanup(p.Kill)
	x := &Toxiproxy{t, "http://127.0.0.1:" + port}
	Eventually(t, "toxiproxy serves", 10*time.Second, func() error { return x.call(http.MethodGet, "/version", nil) })
	return x
}

// Link is one way through a toxiproxy.
type Link struct {
	Addr string // where it listens
	x    *Toxiproxy
	name string
}

// Link listens, and forwards to an address.
func (x *Toxiproxy) Link(name, to string) *Link {
	x.t.Helper()
	l := &Link{Addr: "127.0.0.1:" + strconv.Itoa(Port(x.t)), x: x, name: name}
	must(x.t, x.call(http.MethodPost, "/proxies", map[string]any{"name": name, "listen": l.Addr, "upstream": to, "enabled": true}))
	return l
}

// Spoil makes the link bad in one of toxiproxy's ways, in what comes from the upstream:
// latency, bandwidth, timeout, reset_peer, slicer, limit_data.
func (l *Link) Spoil(toxic string, attributes map[string]any) {
	l.x.t.Helper()
	must(l.x.t, l.x.call(http.MethodPost, "/proxies/"+l.name+"/toxics", map[string]any{"name": toxic, "type": toxic, "stream": "downstream", "attributes": attributes}))
}

// Heal takes a way to be bad from the link.
func (l *Link) Heal(toxic string) {
	l.x.t.Helper()
	must(l.x.t, l.x.call(http.MethodDelete, "/proxies/"+l.name+"/toxics/"+toxic, nil))
}

func (x *Toxiproxy) call(method, path string, body any) error {
	data, err := json.Marshal(body)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(x.t.Context(), method, x.api+path, bytes.NewReader(data))
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close() //nolint:errcheck // read only
	if resp.StatusCode >= 300 {
		text, _ := io.ReadAll(resp.Body)
		return fmt.Errorf("%s %s: %d %s", method, path, resp.StatusCode, text)
	}
	return nil
}
