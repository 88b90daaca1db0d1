package e2e

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"datapunk.dev/controlplane/e2e/harness"
	"datapunk.dev/controlplane/e2e/run"
	"datapunk.dev/controlplane/e2e/traffic"
)

// lakeInParts is a caller, and two applications without sidecars: a stable one and a
// canary.
func lakeInParts(t *testing.T, mesh string) *harness.Mesh {
	t.Helper()
	m := harness.Start(t, harness.Options{Mesh: besidesTheExamples, Overlay: mesh})
	bareApp(t, m, run.Instance{Service: "lake_service", ID: "stable", Meta: map[string]string{"version": "1"}})
	bareApp(t, m, run.Instance{Service: "lake_service", ID: "canary", Tags: []string{"canary"}, Meta: map[string]string{"version": "2"}})
	m.Add(harness.Spec{Service: "nexus", ID: caller, Unregistered: true})
	m.Ready()
	servedBy(t, m, traffic.Request{Host: "lake_service"}, "canary", "stable")
	return m
}

// TestUsersStayWithTheirVersion drives configs/examples/sticky.yaml: from the first
// request on, and over edits of the weights, by which users move to the canary, and
// none of them back.
func TestUsersStayWithTheirVersion(t *testing.T) {
	for by, edit := range map[string]func(string) string{
		"cookie": func(text string) string { return text },
		"header": func(text string) string {
			return strings.Replace(text, "{cookie: lake-version, ttl: 24h}", "{header: x-user-id}", 1)
		},
	} {
		t.Run(by, func(t *testing.T) {
			mesh := edit(example(t, "sticky"))
			m := lakeInParts(t, mesh)
			const users = 400
			headers, had := make([]http.Header, users), make([]string, users)
			for i := range users {
				headers[i] = http.Header{"X-User-Id": {fmt.Sprint("user-", i)}}
				if by == "header" {
					continue
				}
				headers[i] = http.Header{"Cookie": {"theme=dark"}}
				r := m.Do(caller, traffic.Request{Host: "lake_service", Header: headers[i]})
				given := r.Header.Get("set-cookie")
				cookie, rest, _ := strings.Cut(given, ";")
				if !strings.HasPrefix(cookie, "lake-version=") || rest != " Path=/; HttpOnly; Max-Age=86400" {
					t.Fatalf("user %d was given %q", i, given)
				}
				headers[i] = http.Header{"Cookie": {"theme=dark; " + cookie}}
				had[i] = r.Reply.Instance
			}
			visit := func(i int) string {
				r := m.Do(caller, traffic.Request{Host: "lake_service", Header: headers[i]})
				if r.Status != http.StatusOK || r.Header.Get("set-cookie") != "" {
					t.Errorf("user %d: %s, %v", i, r, r.Header)
				}
				return r.Reply.Instance
			}
			for _, weight := range []int{20, 35, 60} {
				if weight != 20 {
					m.Edit(strings.NewReplacer("weight: 80", fmt.Sprint("weight: ", 100-weight), "weight: 20", fmt.Sprint("weight: ", weight)).Replace(mesh))
					harness.Eventually(t, "the weights hold", 10*time.Second, func() error {
						routes := strings.ReplaceAll(string(m.Resource(caller, "route", "outbound/lake_service").Body), " ", "")
						if !strings.Contains(routes, fmt.Sprintf(`"weight":%d`, weight)) {
							return errors.New("not yet")
						}
						return nil
					})
				}
				canary := 0
				for i := range users {
					is := visit(i)
					if again := visit(i); again != is {
						t.Errorf("user %d has %s, and then %s", i, is, again)
					}
					if had[i] == "canary" && is != "canary" || weight == 20 && had[i] != "" && had[i] != is {
						t.Errorf("at %d %%, user %d moved from %s to %s", weight, i, had[i], is)
					}
					if had[i] = is; is == "canary" {
						canary++
					}
				}
				if share := 100 * canary / users; share < weight-8 || share > weight+8 {
					t.Errorf("%d %% of the users have the canary, and are to be %d", share, weight)
				}
			}
		})
	}
}

// TestPagesOfOtherOrigins drives configs/examples/cors.yaml.
func TestPagesOfOtherOrigins(t *testing.T) {
	m := harness.Start(t, harness.Options{Mesh: besidesTheExamples, Overlay: example(t, "cors")})
	lake := bareApp(t, m, run.Instance{Service: "lake_service", ID: "one"})
	m.Add(harness.Spec{Service: "nexus", ID: caller, Unregistered: true})
	m.Ready()
	servedBy(t, m, traffic.Request{Host: "lake_service"}, "one")
	for origin, allowed := range map[string]bool{
		"https://shop.example": true, "https://a.shop.example": true, "https://evil.example": false, "http://shop.example": false, "https://ashop.example": false,
	} {
		lake.Forget()
		r := m.Do(caller, traffic.Request{Host: "lake_service", Method: "OPTIONS", Path: "/api/x", Header: http.Header{"Origin": {origin}, "Access-Control-Request-Method": {"PUT"}}})
		want := http.Header{}
		if allowed {
			want = http.Header{
				"Access-Control-Allow-Origin": {origin}, "Access-Control-Allow-Methods": {"GET, PUT"}, "Access-Control-Allow-Headers": {"content-type"},
				"Access-Control-Max-Age": {"600"}, "Access-Control-Allow-Credentials": {"true"},
			}
		}
		names := []string{"Access-Control-Allow-Origin", "Access-Control-Allow-Methods", "Access-Control-Allow-Headers", "Access-Control-Max-Age", "Access-Control-Allow-Credentials"}
		if !allowed {
			names = names[:1] // without which the others mean nothing
		}
		for _, name := range names {
			if got := r.Header.Get(name); got != want.Get(name) {
				t.Errorf("a preflight of %s: %s is %q, want %q", origin, name, got, want.Get(name))
			}
		}
		if r.Status != http.StatusOK || lake.Count() != 0 {
			t.Errorf("a preflight of %s: %s, and %d came to the application", origin, r, lake.Count())
		}
		r = m.Do(caller, traffic.Request{Host: "lake_service", Path: "/api/x", Header: http.Header{"Origin": {origin}}})
		if got := r.Header.Get("Access-Control-Allow-Origin"); r.Status != http.StatusOK || got != want.Get("Access-Control-Allow-Origin") {
			t.Errorf("a page of %s: %s, allowed %q", origin, r, got)
		}
	}
}
