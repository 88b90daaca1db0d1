package register

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"datapunk.dev/controlplane/consul"
	"datapunk.dev/controlplane/watch"
)

const (
	// sessionTTL is the least that Consul takes; a session that is not renewed is
	// gone after twice that. renewal is when it is, which costs no write.
	sessionTTL = 10 * time.Second
	renewal    = 3 * time.Second
	// releaseTime bounds how long the end of the process waits for Consul.
	releaseTime = 2 * time.Second
)

var errNoSession = errors.New("this replica has no session in Consul")

func (c *consulStore) currentSession() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.session
}

func (c *consulStore) setSession(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.session = id
}

// drop forgets a session that Consul does not know.
func (c *consulStore) drop(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.session == id {
		c.session = ""
	}
}

// sessionNode is the node of the sessions of all replicas: a session has to have
// one.
func (c *consulStore) sessionNode() string { return nodeName("controlplane-" + c.mesh) }

// run implements store.
func (c *consulStore) run(ctx context.Context, on sessionEvents) {
	for {
		id, err := c.open(ctx)
		if err == nil {
			c.setSession(id)
			on.up()
			err = c.keep(ctx, id, on.leading)
		}
		if ctx.Err() != nil {
			return // the session stays until it is released
		}
		c.drop(id)
		on.down(err)
		if !sleep(ctx, writeAgain) {
			return
		}
	}
}

// open makes a session and has it hold the key of this replica.
func (c *consulStore) open(ctx context.Context) (string, error) {
	node := op{"Node": map[string]any{"Verb": "cas", "Node": map[string]any{
		"Node": c.sessionNode(), "Address": "127.0.0.1", "Meta": map[string]string{watch.MetaManagedBy: c.managedBy()}, "ModifyIndex": 0,
	}}}
	if err := c.put(ctx, "/v1/txn", nil, []op{node}, nil); err != nil {
		why, refused := refusedOps(err)[0]
		switch {
		case !refused:
			return "", err
		case isDenial(why):
			return "", fmt.Errorf("the token may not write node %s: %s", c.sessionNode(), why)
		} // else it is there
	}
	var session struct{ ID string }
	err := c.put(ctx, "/v1/session/create", nil, map[string]any{
		"Name": c.key(), "Node": c.sessionNode(), "TTL": sessionTTL.String(), "LockDelay": "1s", "Behavior": "delete", "NodeChecks": []string{},
	}, &session)
	if err != nil {
		return "", fmt.Errorf("session: %w", err)
	}
	ok, err := c.acquire(ctx, c.key(), session.ID)
	if err == nil && !ok {
		err = fmt.Errorf("somebody else has the key %s", c.key())
	}
	if err != nil {
		_ = c.put(ctx, "/v1/session/destroy/"+url.PathEscape(session.ID), nil, nil, nil)
		return "", err
	}
	return session.ID, nil
}

func (c *consulStore) acquire(ctx context.Context, key, session string) (ok bool, err error) {
	err = c.put(ctx, kvPath(key), url.Values{"acquire": {session}}, map[string]string{"replica": c.self}, &ok)
	if err != nil {
		err = fmt.Errorf("key %s: %w", key, err)
	}
	return ok, err
}

// keep renews a session until it is gone, or until nobody can know any more that
// it is not.
func (c *consulStore) keep(ctx context.Context, id string, leading func(bool)) error {
	defer leading(false)
	leads, renewed := false, time.Now()
	for {
		if now := c.leads(ctx, id); now != leads {
			leads = now
			leading(leads)
		}
		if !sleep(ctx, renewal) {
			return ctx.Err()
		}
		if c.currentSession() != id {
			return errNoSession // a write found that out
		}
		err := c.renew(ctx, id)
		var status *consul.StatusError
		switch {
		case err == nil:
			renewed = time.Now()
		case errors.As(err, &status) && status.Code == http.StatusNotFound:
			return fmt.Errorf("the session of this replica is gone: %w", err)
		case time.Since(renewed) >= sessionTTL:
			return fmt.Errorf("the session of this replica could not be renewed: %w", err)
		}
	}
}

// renew does not wait for longer than until the next time.
func (c *consulStore) renew(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, renewal)
	defer cancel()
	return c.put(ctx, "/v1/session/renew/"+url.PathEscape(id), nil, nil, nil)
}

// leads takes the key of the one that sweeps if nobody has it. To try is a write,
// so it is looked at first.
func (c *consulStore) leads(ctx context.Context, session string) bool {
	a, err := c.client.Do(ctx, consul.Request{Path: kvPath(c.sweeperKey())})
	var status *consul.StatusError
	switch {
	case err == nil:
		var pairs []struct{ Session string }
		if a.Decode(&pairs) != nil || len(pairs) != 1 {
			return false
		}
		if pairs[0].Session != "" {
			return pairs[0].Session == session
		}
	case !errors.As(err, &status) || status.Code != http.StatusNotFound:
		return false
	}
	ok, err := c.acquire(ctx, c.sweeperKey(), session)
	return err == nil && ok
}

// release implements store. The key goes with the session.
func (c *consulStore) release(ctx context.Context) {
	id := c.currentSession()
	if id == "" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, releaseTime)
	defer cancel()
	c.drop(id)
	_ = c.put(ctx, "/v1/session/destroy/"+url.PathEscape(id), nil, nil, nil)
}

// sleep returns false if ctx ends first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
