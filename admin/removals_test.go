package admin

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"datapunk.dev/controlplane/admin/api"
)

// Whoever may read sees what is held, and who operates decides on it.
func TestARemovalIsDecidedOn(t *testing.T) {
	var decided []string
	h := Handler(slog.New(slog.DiscardHandler), Sources{
		Metrics: prometheus.NewRegistry(), Listener: loopback, Authenticate: operators,
		Removals: func() api.Removals {
			return api.Removals{Removals: []api.Removal{{ID: "0123456789ab", Service: "lake", Effect: "2 of 2 vanish"}}}
		},
		DecideRemoval: func(_ context.Context, id string, accept bool) error {
			if id != "0123456789ab" {
				return errors.New("no removal of this id is held")
			}
			decided = append(decided, map[bool]string{true: "accept", false: "refuse"}[accept])
			return nil
		},
	})
	for _, c := range []struct {
		method, path, token string
		code                int
		says                string
	}{
		{"GET", "", "", 200, `"effect":"2 of 2 vanish"`},
		{"POST", "/0123456789ab/accept", "", 401, `admin-token --role operate"`},
		{"GET", "/0123456789ab/accept", "good", 405, "takes POST"},
		{"POST", "/0123456789ab/forget", "good", 404, "no such path"},
		{"POST", "/0123456789ac/accept", "good", 409, "no removal of this id"},
		{"POST", "/0123456789ab/accept", "good", 200, "accept"},
		{"POST", "/0123456789ab/refuse", "good", 200, "refuse"},
	} {
		if code, body := request(h, c.method, "/api/v1/removals"+c.path, c.token, ""); code != c.code || !strings.Contains(body, c.says) {
			t.Errorf("%s %s: %d %s", c.method, c.path, code, body)
		}
	}
	if got := strings.Join(decided, " "); got != "accept refuse" {
		t.Errorf("decided: %s", got)
	}
}
