package consul

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"
)

// FuzzAnswers has Consul say anything for a while, in headers and body, to whatever
// it is asked: nobody panics, nothing is taken out by an answer that is none, and
// afterwards the catalog is what Consul has.
func FuzzAnswers(f *testing.F) {
	f.Add(200, "0", "true", "", []byte(`[]`), byte(1))
	f.Add(200, "3", "false", "", []byte(`{"consul":[]}`), byte(3))
	f.Add(200, "99999999999", "true", "true", []byte(`{"consul":[],"lake":[],"dome":null}`), byte(3))
	f.Add(200, "12", "true", "", []byte(`[{"Node":{"Node":"n1-lake","Address":"10.0.0.1"},"Service":{"ID":"i1","Service":"lake","Port":80}}]`), byte(2))
	f.Add(429, "", "", "", []byte(`slow down`), byte(7))
	f.Add(0, "", "", "", []byte{}, byte(7))
	f.Add(200, "12", "true", "", []byte(`[{"Node":null,"Service":null,"Checks":[null]}]`), byte(6))
	f.Fuzz(func(t *testing.T, code int, index, leader, filtered string, body []byte, to byte) {
		bubble(t, func(t *testing.T) {
			fake := newFake()
			fake.set("lake", many(3)...)
			fake.set("dome", many(2)...)
			r := start(t, fake, Demand{MeshOnly: true})
			r.want("lake", 3)
			fake.fail(func(req *http.Request) (*http.Response, error) {
				asked := map[string]byte{"/v1/catalog/services": 1, healthPath("lake"): 2, "/v1/health/state/any": 4}[req.URL.Path]
				if asked&to == 0 {
					return nil, nil
				}
				time.Sleep(10 * time.Millisecond) // as a network does: an index that never rests is asked for again at once
				if code == 0 {
					return nil, errors.New("the connection was reset")
				}
				return reply(code, string(body), http.Header{
					"X-Consul-Index": {index}, "X-Consul-Knownleader": {leader}, "X-Consul-Results-Filtered-By-Acls": {filtered},
				}), nil
			})
			time.Sleep(3 * time.Second)
			if code != http.StatusOK || body == nil || !strings.HasPrefix(strings.TrimSpace(string(body)), "[") {
				r.want("lake", 3) // of no answer, or none that is of a service, anything is believed
			}
			r.want("dome", 2)
			fake.set("lake", many(4)...)
			fake.fail(nil)
			time.Sleep(3 * time.Minute)
			r.want("lake", 4)
			r.want("dome", 2)
			if r.panicked.Load() {
				t.Error("it panicked")
			}
		})
	})
}
