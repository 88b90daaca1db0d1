package admin

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"datapunk.dev/controlplane/admin/api"
	"datapunk.dev/controlplane/xds"
)

// What another replica holds is not "not there": the answer names that one, and where it is.
func TestWhatAnotherReplicaHoldsIsAskedOfThatOne(t *testing.T) {
	src := everySource()
	src.Replicas = func() api.Replicas {
		return api.Replicas{Replica: "one", Replicas: []api.Replica{
			{Name: "one", Address: "10.0.0.1:18000"}, {Name: "two", Address: "10.0.0.2:18000", Streams: 7},
		}}
	}
	src.Fleet = func(context.Context) (Fleet, error) {
		return Fleet{Proxies: []xds.ProxyStatus{{Node: "here", Replica: "one"}, {Node: "there", Replica: "two"}}}, nil
	}
	src.Certificates = func() (api.Certificates, error) { return api.Certificates{}, nil }
	src.Rotate = func(api.Rotate) (int, error) { return 0, nil }
	src.Describe = func(string, string) (api.Description, error) {
		return api.Description{}, errors.New("no such proxy here")
	}
	h := Handler(discard, src)
	ask := func(method, path, body string) (int, string) {
		t.Helper()
		w := httptest.NewRecorder()
		r := httptest.NewRequest(method, api.Prefix+path, strings.NewReader(body))
		r.RemoteAddr = "127.0.0.1:1"
		r.Header.Set("Authorization", "Bearer good")
		h.ServeHTTP(w, r)
		return w.Code, w.Body.String()
	}
	for _, c := range []struct{ method, path, body string }{
		{http.MethodGet, "/proxies/NODE/resources", ""},
		{http.MethodGet, "/describe/proxy/NODE", ""},
		{http.MethodGet, "/certificates?node=NODE", ""},
		{http.MethodPost, "/certificates/rotate", `{"node":"NODE"}`},
	} {
		of := func(node string) (int, string) {
			return ask(c.method, strings.ReplaceAll(c.path, "NODE", node), strings.ReplaceAll(c.body, "NODE", node))
		}
		if code, body := of("there"); code != http.StatusConflict || !strings.Contains(body, "there is connected to the replica two, not to one") || !strings.Contains(body, "10.0.0.2:18000") {
			t.Errorf("%s of another replica's proxy: %d %s", c.path, code, body)
		}
		for _, node := range []string{"here", "nowhere"} {
			if code, body := of(node); code == http.StatusConflict || strings.Contains(body, "connected to the replica") {
				t.Errorf("%s of %s: %d %s", c.path, node, code, body)
			}
		}
	}
	for _, path := range []string{"/certificates", "/events"} {
		if _, body := ask(http.MethodGet, path, ""); !strings.Contains(body, `"elsewhere":[{"replica":"two","address":"10.0.0.2:18000","proxies":7}]`) {
			t.Errorf("%s does not say who has the others: %s", path, body)
		}
	}
	if code, body := ask(http.MethodPost, "/certificates/rotate", `{"service":"lake"}`); code != http.StatusNotFound || !strings.Contains(body, "say it to the others too") {
		t.Errorf("of a service without a proxy here: %d %s", code, body)
	}
}
