package replica

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"datapunk.dev/controlplane/consul"
)

// fakeKV is what replicas use of Consul: sessions with a TTL, keys that go with
// them, transactions and blocking queries. It is in memory, so that time may be
// that of a bubble. TestReal... does the same on a real one.
type fakeKV struct {
	mu       sync.Mutex
	index    uint64
	keys     map[string]*pair
	sessions map[string]time.Time // when it ends
	changed  chan struct{}
	away     bool
	denied   bool // the token may not write keys
	writes   int
	made     int
}

func newFakeKV() *fakeKV {
	return &fakeKV{index: 10, keys: make(map[string]*pair), sessions: make(map[string]time.Time), changed: make(chan struct{})}
}

// client is that of one replica. Cut says whether it is cut off.
func (f *fakeKV) client(t testing.TB, cut func() bool) *consul.Client {
	t.Helper()
	c, err := consul.New(consul.Config{Address: "consul:8500", RoundTripper: tripper(func(r *http.Request) (*http.Response, error) {
		for { // a replica that is cut off hears nothing of what it asked before either
			answer, wait, err := f.try(r, cut)
			if wait == nil {
				return answer, err
			}
			select {
			case <-wait:
			case <-time.After(time.Second): // sessions end by time
			case <-r.Context().Done():
				return nil, r.Context().Err()
			}
		}
	})})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

type tripper func(*http.Request) (*http.Response, error)

func (f tripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func (f *fakeKV) setAway(away bool) { f.mu.Lock(); defer f.mu.Unlock(); f.away = away; f.notify() }

func (f *fakeKV) written() int { f.mu.Lock(); defer f.mu.Unlock(); return f.writes }

// wipe is a Consul that was restored from nothing.
func (f *fakeKV) wipe() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.index = 5
	clear(f.keys)
	clear(f.sessions)
	f.notify()
}

func (f *fakeKV) notify() { close(f.changed); f.changed = make(chan struct{}) }

func (f *fakeKV) expire() {
	for id, end := range f.sessions {
		if time.Now().After(end) {
			f.end(id)
		}
	}
}

func (f *fakeKV) end(id string) {
	delete(f.sessions, id)
	for key, p := range f.keys {
		if p.Session == id {
			delete(f.keys, key)
		}
	}
	f.index++
	f.notify()
}

func (f *fakeKV) answer(code int, body any) *http.Response {
	text, ok := body.(string)
	if !ok {
		b, _ := json.Marshal(body)
		text = string(b)
	}
	return &http.Response{StatusCode: code, Header: http.Header{"X-Consul-Index": {strconv.FormatUint(f.index, 10)}}, Body: io.NopCloser(strings.NewReader(text))}
}

func (f *fakeKV) try(r *http.Request, cut func() bool) (*http.Response, <-chan struct{}, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.expire()
	if f.away || cut() {
		return nil, nil, fmt.Errorf("connection refused")
	}
	path := r.URL.Path
	switch {
	case r.Method == http.MethodGet:
		if index := r.URL.Query().Get("index"); index == strconv.FormatUint(f.index, 10) {
			return nil, f.changed, nil
		}
		if _, raw := r.URL.Query()["raw"]; raw {
			if p := f.keys[strings.TrimPrefix(path, "/v1/kv/")]; p != nil {
				return f.answer(200, string(p.Value)), nil, nil
			}
			return f.answer(404, ""), nil, nil
		}
		pairs := []pair{}
		for _, p := range f.keys {
			if strings.HasPrefix("/v1/kv/"+p.Key, path) {
				pairs = append(pairs, *p)
			}
		}
		if len(pairs) == 0 {
			return f.answer(404, ""), nil, nil
		}
		return f.answer(200, pairs), nil, nil
	case path == "/v1/session/create":
		f.made++
		id := fmt.Sprint("s", f.made)
		f.sessions[id] = time.Now().Add(2 * sessionTTL)
		return f.answer(200, map[string]string{"ID": id}), nil, nil
	case strings.HasPrefix(path, "/v1/session/renew/"):
		id := strings.TrimPrefix(path, "/v1/session/renew/")
		if _, ok := f.sessions[id]; !ok {
			return f.answer(404, "Session id not found"), nil, nil
		}
		f.sessions[id] = time.Now().Add(2 * sessionTTL)
		return f.answer(200, []string{}), nil, nil
	case strings.HasPrefix(path, "/v1/session/destroy/"):
		f.end(strings.TrimPrefix(path, "/v1/session/destroy/"))
		return f.answer(200, "true"), nil, nil
	case path == "/v1/txn":
		return f.transact(r), nil, nil
	case strings.HasPrefix(path, "/v1/kv/"):
		return f.acquire(r, strings.TrimPrefix(path, "/v1/kv/")), nil, nil
	}
	return f.answer(400, "no such path"), nil, nil
}

func (f *fakeKV) acquire(r *http.Request, key string) *http.Response {
	if f.denied {
		return f.answer(403, "Permission denied: token lacks permission 'key:write'")
	}
	if session := r.URL.Query().Get("release"); session != "" {
		p := f.keys[key]
		if p == nil || p.Session != session {
			return f.answer(200, "false")
		}
		f.put(&pair{Key: key, Value: p.Value})
		return f.answer(200, "true")
	}
	session := r.URL.Query().Get("acquire")
	if session == "" {
		body, _ := io.ReadAll(r.Body)
		if len(body) > MaxText {
			return f.answer(413, "Value exceeds 524288 byte limit")
		}
		f.put(&pair{Key: key, Value: body})
		return f.answer(200, "true")
	}
	if _, ok := f.sessions[session]; !ok {
		return f.answer(500, "rpc error making call: invalid session "+strconv.Quote(session))
	}
	body, _ := io.ReadAll(r.Body)
	if p := f.keys[key]; p != nil && p.Session != "" && p.Session != session {
		return f.answer(200, "false")
	}
	f.put(&pair{Key: key, Session: session, Value: body})
	return f.answer(200, "true")
}

func (f *fakeKV) put(p *pair) {
	f.index++
	f.writes++
	p.ModifyIndex = f.index
	f.keys[p.Key] = p
	f.notify()
}

func (f *fakeKV) transact(r *http.Request) *http.Response {
	var ops []struct {
		KV *struct {
			Verb, Key, Session string
			Value              []byte
			Index              uint64
		}
	}
	if err := json.NewDecoder(r.Body).Decode(&ops); err != nil {
		return f.answer(400, err.Error())
	}
	var puts []*pair
	var remove []string
	for i, o := range ops {
		if o.KV == nil {
			continue // a node, which is there
		}
		now := f.keys[o.KV.Key]
		ok := false
		switch o.KV.Verb {
		case "check-session":
			ok = now != nil && now.Session == o.KV.Session
		case "cas":
			ok = now == nil && o.KV.Index == 0 || now != nil && now.ModifyIndex == o.KV.Index
			puts = append(puts, &pair{Key: o.KV.Key, Value: o.KV.Value})
		case "delete", "delete-tree":
			ok = true
			for key := range f.keys {
				if key == o.KV.Key || o.KV.Verb == "delete-tree" && strings.HasPrefix(key, o.KV.Key) {
					remove = append(remove, key)
				}
			}
		}
		if !ok {
			return f.answer(409, map[string]any{"Errors": []map[string]any{{"OpIndex": i, "What": "failed " + o.KV.Verb}}})
		}
	}
	for _, key := range remove {
		delete(f.keys, key)
	}
	for _, p := range puts {
		f.put(p)
	}
	return f.answer(200, map[string]any{"Results": []any{}})
}

// one is a replica of a test.
type one struct {
	*Replica
	cut   bool // guarded by mu
	mu    sync.Mutex
	state Member
	views []*View
	stop  func()
}

func (o *one) isCut() bool { o.mu.Lock(); defer o.mu.Unlock(); return o.cut }

func (o *one) setCut(cut bool) { o.mu.Lock(); defer o.mu.Unlock(); o.cut = cut }

func newOne(t testing.TB, name string, client func(*one) *consul.Client) *one {
	t.Helper()
	o := &one{state: Member{Address: name + ":18000"}}
	o.Replica = New(client(o), "datapunk", name, slog.New(slog.DiscardHandler), func() Member {
		o.mu.Lock()
		defer o.mu.Unlock()
		return o.state
	}, func(v *View) {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.views = append(o.views, v)
	})
	return o
}

func (o *one) be(change func(*Member)) {
	o.mu.Lock()
	change(&o.state)
	o.mu.Unlock()
	o.Changed()
}
