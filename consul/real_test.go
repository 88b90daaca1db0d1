package consul_test

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"go.uber.org/goleak"

	"datapunk.dev/controlplane/consul"
	"datapunk.dev/controlplane/internal/consulagent"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// client returns one of an agent, which has to exist.
func client(t *testing.T, cfg consul.Config) *consul.Client {
	t.Helper()
	c, err := consul.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// do makes a request that has to be answered, and decodes what it says.
func do(t *testing.T, c *consul.Client, r consul.Request, into any) *consul.Answer {
	t.Helper()
	a, err := c.Do(t.Context(), r)
	if err != nil {
		t.Fatalf("%s %s: %v", r.Method, r.Path, err)
	}
	if err := a.Decode(into); err != nil {
		t.Fatalf("%s %s: %v", r.Method, r.Path, err)
	}
	return a
}

func params(kv ...any) url.Values {
	v := url.Values{}
	for i := 0; i < len(kv); i += 2 {
		v.Set(fmt.Sprint(kv[i]), fmt.Sprint(kv[i+1]))
	}
	return v
}

type pair struct {
	Key         string
	Value       []byte
	ModifyIndex uint64
	Session     string
}

// A value is written if nobody else has written in between, by HTTP/1.1 and by
// HTTP/2, and whoever waits for it hears of it.
func TestRealWriteAndCompareAndSet(t *testing.T) {
	t.Parallel()
	cert, key := certificate(t)
	agent := consulagent.ForTest(t, consulagent.Options{CertFile: cert, KeyFile: key})
	for name, cfg := range map[string]consul.Config{
		"HTTP/1.1": {Address: agent.HTTP},
		"HTTP/2":   {Address: agent.HTTPS, Scheme: "https", Datacenter: "dc1", TLS: consul.TLS{CAFile: cert}},
	} {
		t.Run(name, func(t *testing.T) {
			c := client(t, cfg)
			path := "/v1/kv/mesh/" + url.PathEscape(name)
			write := func(value string, cas uint64) (ok bool) {
				do(t, c, consul.Request{Method: http.MethodPut, Path: path, Params: params("cas", cas), Body: []byte(value)}, &ok)
				return ok
			}
			read := func(p url.Values, wait time.Duration) (pair, uint64) {
				var pairs []pair
				a := do(t, c, consul.Request{Path: path, Params: p, Wait: wait}, &pairs)
				if len(pairs) != 1 || a.Index == 0 || a.HTTP2 != (name == "HTTP/2") {
					t.Fatalf("%d values, index %d, HTTP/2 %t", len(pairs), a.Index, a.HTTP2)
				}
				return pairs[0], a.Index
			}
			if !write("one", 0) || write("again", 0) {
				t.Error("a key was made twice, or not once")
			}
			one, index := read(nil, 0)
			heard := make(chan pair)
			go func() {
				var pairs []pair
				if a, err := c.Do(t.Context(), consul.Request{Path: path, Params: params("index", index, "wait", "30s"), Wait: 30 * time.Second}); err != nil || a.Decode(&pairs) != nil || len(pairs) != 1 {
					t.Errorf("the blocking read: %v", err)
					pairs = []pair{{}}
				}
				heard <- pairs[0]
			}()
			if !write("two", one.ModifyIndex) || write("late", one.ModifyIndex) {
				t.Error("a write did not take, or one that is late did")
			}
			if two := <-heard; string(two.Value) != "two" || two.ModifyIndex <= one.ModifyIndex {
				t.Errorf("heard %s at %d, after %d", two.Value, two.ModifyIndex, one.ModifyIndex)
			}
		})
	}
}

// JSON goes the same way: a session holds a key, and a transaction that finds
// it changed is refused whole.
func TestRealSessionAndTransaction(t *testing.T) {
	t.Parallel()
	agent := consulagent.ForTest(t, consulagent.Options{})
	c := client(t, consul.Config{Address: agent.HTTP})
	put := func(path string, p url.Values, body, into any) {
		t.Helper()
		data, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		do(t, c, consul.Request{Method: http.MethodPut, Path: path, Params: p, Body: data}, into)
	}
	var first, second struct{ ID string }
	put("/v1/session/create", nil, map[string]string{"Name": "leader", "TTL": "10s"}, &first)
	put("/v1/session/create", nil, map[string]string{"Name": "leader", "TTL": "10s"}, &second)
	var has, other bool
	put("/v1/kv/leader", params("acquire", first.ID), "me", &has)
	put("/v1/kv/leader", params("acquire", second.ID), "no, me", &other)
	if !has || other {
		t.Errorf("the first session has the key: %t, and the second: %t", has, other)
	}

	set := func(verb string, index uint64) map[string]any {
		return map[string]any{"KV": map[string]any{"Verb": verb, "Key": "state", "Value": []byte("1"), "Index": index}}
	}
	var done struct{ Results []struct{ KV pair } }
	put("/v1/txn", nil, []any{set("cas", 0)}, &done)
	if len(done.Results) != 1 || done.Results[0].KV.ModifyIndex == 0 {
		t.Errorf("the transaction said %+v", done)
	}
	body, err := json.Marshal([]any{set("set", 0), set("cas", 0)})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Do(t.Context(), consul.Request{Method: http.MethodPut, Path: "/v1/txn", Body: body})
	var status *consul.StatusError
	if !errors.As(err, &status) || status.Code != http.StatusConflict || !strings.Contains(status.Message, "index is stale") {
		t.Errorf("a stale transaction: %v", err)
	}
}

// A token that may read and not write is told so.
func TestRealWriteWithoutTheRight(t *testing.T) {
	t.Parallel()
	agent := consulagent.ForTest(t, consulagent.Options{ACLs: true})
	policy, _, err := agent.API.ACL().PolicyCreate(&api.ACLPolicy{Name: "reader", Rules: `key_prefix "" { policy = "read" }`}, nil)
	if err != nil {
		t.Fatal(err)
	}
	token, _, err := agent.API.ACL().TokenCreate(&api.ACLToken{Policies: []*api.ACLTokenPolicyLink{{ID: policy.ID}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for secret, want := range map[string]int{token.SecretID: http.StatusForbidden, consulagent.ManagementToken: 0} {
		c := client(t, consul.Config{Address: agent.HTTP, Token: secret})
		_, err := c.Do(t.Context(), consul.Request{Method: http.MethodPut, Path: "/v1/kv/a", Body: []byte("1")})
		var status *consul.StatusError
		if errors.As(err, &status) != (want != 0) || status != nil && status.Code != want || status == nil && err != nil {
			t.Errorf("%v, want %d", err, want)
		}
	}
}

// certificate writes one for 127.0.0.1: that of the standard library's tests.
func certificate(t *testing.T) (certFile, keyFile string) {
	t.Helper()
	s := httptest.NewTLSServer(http.NotFoundHandler())
	defer s.Close()
	own := s.TLS.Certificates[0]
	key, err := x509.MarshalPKCS8PrivateKey(own.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	return write("cert.pem", "CERTIFICATE", own.Certificate[0]), write("key.pem", "PRIVATE KEY", key)
}
