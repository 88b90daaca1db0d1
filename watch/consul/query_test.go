package consul

import (
	"log/slog"
	"net/url"
	"strings"
	"testing"
	"time"

	"datapunk.dev/controlplane/watch"
)

func TestQueries(t *testing.T) {
	for _, tt := range []struct {
		cfg   Config
		query query
		want  string // path and parameters
	}{
		{Config{}, query{path: "/v1/health/service/lake"}, "/v1/health/service/lake?stale="},
		{Config{}, query{path: healthPath("lake"), index: 7}, "/v1/health/service/lake?index=7&stale=&wait=55000ms"},
		{Config{}, query{path: healthPath("lake"), consistent: true}, "/v1/health/service/lake?consistent="},
		{Config{Consistency: "default"}, query{path: healthPath("lake")}, "/v1/health/service/lake?"},
		{Config{Consistency: "consistent"}, query{path: healthPath("lake"), index: 1, consistent: true}, "/v1/health/service/lake?consistent=&index=1&wait=55000ms"},
		{Config{Wait: 90 * time.Second}, query{path: healthPath("a b/c"), index: 1}, "/v1/health/service/a%20b%2Fc?index=1&stale=&wait=90000ms"},
		{
			Config{},
			query{path: "/v1/catalog/services", filter: Demand{MeshOnly: true}.filter()},
			"/v1/catalog/services?filter=" + url.QueryEscape(`ServiceKind == "" and ("mesh_port" in ServiceMeta or ServiceName == "consul")`) + "&stale=",
		},
	} {
		s := newSource(t, newFake(), tt.cfg, Demand{}, slog.New(slog.DiscardHandler), func(*watch.Catalog) {})
		r := s.request(tt.query)
		if got := r.Path + "?" + r.Params.Encode(); got != tt.want {
			t.Errorf("asked %s, want %s", got, tt.want)
		}
		if blocks := tt.query.index > 0; blocks != (r.Wait > 0) {
			t.Errorf("%s: waits for %s", tt.want, r.Wait)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	for want, cfg := range map[string]Config{
		`consistency "quick" is none of`:   {Consistency: "quick"},
		"wait 1ms is not from 1s to 10m":   {Wait: time.Millisecond},
		"stale, default, consistent\nwait": {Consistency: "quick", Wait: time.Hour}, // all at once
	} {
		_, err := New(nil, cfg, Demand{}, slog.New(slog.DiscardHandler), func(*watch.Catalog) {})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}
