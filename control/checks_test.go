package control

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"datapunk.dev/controlplane/admin/api"
	"datapunk.dev/controlplane/consul"
)

// consulIs is a Consul that answers as said.
type consulIs struct {
	leader, rights string
	slow, ahead    time.Duration
	status         int // of the rights; 0: 200
}

// RoundTrip implements http.RoundTripper.
func (c consulIs) RoundTrip(r *http.Request) (*http.Response, error) {
	time.Sleep(c.slow)
	body, code := c.leader, http.StatusOK
	if strings.HasSuffix(r.URL.Path, "/authorize") {
		body = c.rights
		if c.status != 0 {
			code = c.status
		}
	}
	return &http.Response{
		StatusCode: code, Header: http.Header{"Date": {time.Now().Add(c.ahead).UTC().Format(http.TimeFormat)}},
		Body: io.NopCloser(strings.NewReader(body)), Request: r, ProtoMajor: 1,
	}, nil
}

// What is wrong with Consul, its clock or the token is said, each by itself.
func TestWhatIsCheckedOfConsul(t *testing.T) {
	const leader, all, some = `"10.0.0.1:8300"`, `[{"Allow": true}, {"Allow": true}]`, `[{"Allow": true}, {"Allow": false}]`
	for _, test := range []struct {
		name string
		is   consulIs
		want string
	}{
		{"well", consulIs{leader: leader, rights: all}, "Consul OK, clock OK, Consul's rights OK"},
		{"without a leader", consulIs{leader: `""`, rights: all}, "Consul FAILED, clock OK, Consul's rights OK"},
		{"slow", consulIs{leader: leader, rights: all, slow: time.Second}, "Consul WARNING, clock OK, Consul's rights OK"},
		{"of another time", consulIs{leader: leader, rights: all, ahead: -time.Minute}, "Consul OK, clock FAILED, Consul's rights OK"},
		{"that lets the token do less", consulIs{leader: leader, rights: some}, "Consul OK, clock OK, Consul's rights WARNING"},
		{"that says nothing of the token", consulIs{leader: leader, rights: "{}"}, "Consul OK, clock OK, Consul's rights WARNING"},
		{"that does not let it ask", consulIs{leader: leader, rights: "no", status: 403}, "Consul OK, clock OK, Consul's rights WARNING"},
		{"without ACLs", consulIs{leader: leader, rights: "ACL support disabled", status: 401}, "Consul OK, clock OK, Consul's rights OK"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client, err := consul.New(consul.Config{Address: "10.0.0.1:8500", RoundTripper: test.is})
				if err != nil {
					t.Fatal(err)
				}
				defer client.Close()
				var c checklist
				checkConsul(context.Background(), &c, client, []ask{{Resource: "node", Access: "read"}, {Resource: "service", Access: "write"}}, time.Now)
				var got []string
				for _, one := range c.all {
					got = append(got, fmt.Sprint(one.Name, " ", one.Result))
					if one.Result != api.OK && (one.Page == "" || one.Message == "") {
						t.Errorf("%+v has no page", one)
					}
					if strings.Contains(one.Message, "service:write") != (test.is.rights == some && one.Name == "Consul's rights") {
						t.Errorf("%+v", one)
					}
				}
				if got := strings.Join(got, ", "); got != test.want {
					t.Errorf("got %s, want %s", got, test.want)
				}
			})
		})
	}
}

// Each page that a check names is there.
func TestThePagesOfChecksAreThere(t *testing.T) {
	source, err := os.ReadFile("checks.go")
	if err != nil {
		t.Fatal(err)
	}
	pages := regexp.MustCompile(`"([a-z-]+\.md)(?:#([a-z-]+))?"`).FindAllSubmatch(source, -1)
	if len(pages) < 5 {
		t.Fatalf("%d pages", len(pages))
	}
	for _, page := range pages {
		text, err := os.ReadFile("../docs/" + string(page[1]))
		if err != nil {
			t.Error(err)
		}
		found := len(page[2]) == 0
		for _, heading := range regexp.MustCompile(`(?m)^#+ (.+)$`).FindAllSubmatch(text, -1) {
			anchor := strings.NewReplacer(" ", "-", ",", "", "'", "", ".", "").Replace(strings.ToLower(string(heading[1])))
			found = found || anchor == string(page[2])
		}
		if !found {
			t.Errorf("%s has no #%s", page[1], page[2])
		}
	}
}
