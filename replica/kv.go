package replica

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"datapunk.dev/controlplane/consul"
	"datapunk.dev/controlplane/watch"
)

const (
	// sessionTTL is the least that Consul takes; a session that is not renewed is
	// gone after twice that.
	sessionTTL = 10 * time.Second
	// askTime bounds a request that does not block.
	askTime = 5 * time.Second
	// watchTime is how long a blocking query may take when nothing changes.
	watchTime = time.Minute
)

// kv is the part of Consul's KV that the replicas of one mesh share.
type kv struct {
	client *consul.Client
	mesh   string
}

func (k kv) prefix() string { return watch.ManagedBy + k.mesh + "/fleet/" }

func (k kv) member(name string) string { return k.prefix() + "members/" + name }

func (k kv) leader() string { return k.prefix() + "leader" }

func (k kv) stages() string { return k.prefix() + "stages" }

func (k kv) pin() string { return k.prefix() + "pin" }

// text is the key of the text of a revision; of "" what is before all of them. It is
// beside what is watched: it is large, and read once.
func (k kv) text(revision string) string {
	return watch.ManagedBy + k.mesh + "/revisions/" + revision
}

func kvPath(key string) string {
	parts := strings.Split(key, "/")
	for i, p := range parts {
		parts[i] = url.PathEscape(p)
	}
	return "/v1/kv/" + strings.Join(parts, "/")
}

// pair is one key.
type pair struct {
	Key, Session string
	Value        []byte
	ModifyIndex  uint64
}

// read returns all keys and the index that the next read waits to be passed. With
// an index it waits for a change.
func (k kv) read(ctx context.Context, index uint64) ([]pair, uint64, error) {
	r := consul.Request{Path: kvPath(strings.TrimSuffix(k.prefix(), "/")) + "/", Params: url.Values{"recurse": {""}}}
	if index > 0 {
		r.Wait = watchTime
		r.Params.Set("index", strconv.FormatUint(index, 10))
		r.Params.Set("wait", watchTime.String())
	} else {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, askTime)
		defer cancel()
	}
	a, err := k.client.Do(ctx, r)
	var status *consul.StatusError
	switch {
	case errors.As(err, &status) && status.Code == http.StatusNotFound:
		return nil, 0, nil // no key
	case err != nil:
		return nil, 0, err
	}
	var pairs []pair
	if err := a.Decode(&pairs); err != nil {
		return nil, 0, err
	}
	if a.Index < index {
		return pairs, 0, nil // Consul was restored: what it waits for may be long ago
	}
	return pairs, a.Index, nil
}

// op is an operation of a transaction.
type op map[string]any

// put makes a request with a body, and decodes its answer if into is not nil.
func (k kv) put(ctx context.Context, path string, params url.Values, body, into any) error {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	r := consul.Request{Method: http.MethodPut, Path: path, Params: params}
	if body != nil {
		var err error
		if r.Body, err = json.Marshal(body); err != nil {
			return err
		}
	}
	a, err := k.client.Do(ctx, r)
	if err != nil || into == nil {
		return err
	}
	return a.Decode(into)
}

// write writes a key, whatever it was.
func (k kv) write(ctx context.Context, key string, value []byte) error {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	_, err := k.client.Do(ctx, consul.Request{Method: http.MethodPut, Path: kvPath(key), Body: value})
	return err
}

// sessionNode is the node of the sessions of all replicas: that of the
// registrations too. A session has to have one, and nothing looks after it.
func (k kv) sessionNode() string { return "mesh-controlplane-" + strings.ToLower(k.mesh) }

// open makes a session.
func (k kv) open(ctx context.Context, name string) (string, error) {
	node := op{"Node": map[string]any{"Verb": "cas", "Node": map[string]any{
		"Node": k.sessionNode(), "Address": "127.0.0.1", "Meta": map[string]string{watch.MetaManagedBy: watch.ManagedBy + k.mesh}, "ModifyIndex": 0,
	}}}
	if err := k.put(ctx, "/v1/txn", nil, []op{node}, nil); err != nil && !isConflict(err) {
		return "", fmt.Errorf("node %s: %w", k.sessionNode(), err)
	} // a conflict: it is there, or the session says that the token may not
	var session struct{ ID string }
	err := k.put(ctx, "/v1/session/create", nil, map[string]any{
		"Name": k.member(name), "Node": k.sessionNode(), "TTL": sessionTTL.String(), "LockDelay": "1s", "Behavior": "delete", "NodeChecks": []string{},
	}, &session)
	if err != nil {
		return "", fmt.Errorf("session: %w", err)
	}
	return session.ID, nil
}

func (k kv) renew(ctx context.Context, session string) error {
	return k.put(ctx, "/v1/session/renew/"+url.PathEscape(session), nil, nil, nil)
}

func (k kv) destroy(ctx context.Context, session string) error {
	return k.put(ctx, "/v1/session/destroy/"+url.PathEscape(session), nil, nil, nil)
}

// acquire writes a key if the session lives, and nobody else holds it.
func (k kv) acquire(ctx context.Context, key, session string, value any) (ok bool, err error) {
	if err = k.put(ctx, kvPath(key), url.Values{"acquire": {session}}, value, &ok); err != nil {
		err = fmt.Errorf("key %s: %w", key, err)
	}
	return ok, err
}

// release gives a key back that the session holds. Its value stays.
func (k kv) release(ctx context.Context, key, session string) error {
	return k.put(ctx, kvPath(key), url.Values{"release": {session}}, nil, nil)
}

// lead writes a key if the session holds the leader's lock, and the key is as it was
// at the index.
func (k kv) lead(ctx context.Context, session, key string, value any, index uint64) error {
	body, err := json.Marshal(value)
	if err != nil {
		return err
	}
	return k.put(ctx, "/v1/txn", nil, []op{
		{"KV": map[string]any{"Verb": "check-session", "Key": k.leader(), "Session": session}},
		{"KV": map[string]any{"Verb": "cas", "Key": key, "Value": body, "Index": index}},
	}, nil)
}

func isConflict(err error) bool {
	var status *consul.StatusError
	return errors.As(err, &status) && status.Code == http.StatusConflict
}

// isGone reports whether Consul has said that it knows no such session.
func isGone(err error) bool {
	var status *consul.StatusError
	return errors.As(err, &status) && (status.Code == http.StatusNotFound || strings.Contains(status.Message, "invalid session"))
}
