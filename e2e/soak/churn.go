package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"sync"
	"sync/atomic"
	"time"

	"datapunk.dev/controlplane/e2e/run"
	"datapunk.dev/controlplane/internal/consulagent"
)

// churn changes everything that can change.
type churn struct {
	mesh   *run.Mesh
	consul *consulagent.Agent
	file   string // mesh file

	away                                                sync.RWMutex // Consul, while it restarts
	registrations, edits, refused, restarts, ends, nack atomic.Int64
	certificates, responses                             atomic.Int64
}

func (c *churn) did() string {
	return fmt.Sprintf("%d changes of instances, %d edits and %d that were bad, %d restarts of Consul, %d streams ended, %d responses, %d refused, %d certificates",
		c.registrations.Load(), c.edits.Load(), c.refused.Load(), c.restarts.Load(), c.ends.Load(), c.responses.Load(), c.nack.Load(), c.certificates.Load())
}

// start starts what churns; all of it ends with ctx.
func (c *churn) start(ctx context.Context, all *sync.WaitGroup) error {
	for i := range proxies {
		p, err := newProxy(ctx, c, i)
		if err != nil {
			return err
		}
		all.Go(func() { p.run(ctx) })
	}
	all.Go(func() { again(ctx, 200*time.Millisecond, c.instance) })
	all.Go(func() { again(ctx, 10*time.Second, c.edit) })
	all.Go(func() { again(ctx, 3*time.Minute, func() { c.restart(ctx) }) })
	return nil
}

// again does something now and then.
func again(ctx context.Context, pause time.Duration, do func()) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause/2 + rand.N(pause)):
			do()
		}
	}
}

// instance has one come, go, fail or recover.
func (c *churn) instance() {
	c.away.RLock()
	defer c.away.RUnlock()
	service, n := rand.IntN(services), rand.IntN(10)
	id := fmt.Sprintf("soak-%d-%d", service, n)
	var err error
	switch rand.IntN(5) {
	case 0, 1:
		port := 30000 + service*10 + n
		err = c.consul.Register(consulagent.Instance{Service: fmt.Sprint("soak-", service), ID: id, Address: "127.0.0.1", Port: port, MeshPort: port})
	case 2:
		err = c.consul.Deregister(id)
	case 3:
		err = c.consul.SetHealth(id, "critical")
	default:
		err = c.consul.SetHealth(id, "passing")
	}
	if err == nil { // else it is not there
		c.registrations.Add(1)
	}
}

var limit = regexp.MustCompile(`max_connections: \d+`)

// edit writes the mesh file: one in six has a word that there is not.
func (c *churn) edit() {
	text, err := os.ReadFile(c.file)
	if err != nil {
		return
	}
	good := limit.ReplaceAllString(string(text), fmt.Sprintf("max_connections: %d", 1000+rand.IntN(1000)))
	if rand.IntN(6) == 0 {
		if run.WriteFile(c.file, good+"\nmesh_: {}\n") == nil {
			c.refused.Add(1)
		}
		time.Sleep(2 * time.Second)
	}
	if run.WriteFile(c.file, good) == nil {
		c.edits.Add(1)
	}
}

// restart kills Consul and starts it again, with its state.
func (c *churn) restart(ctx context.Context) {
	c.away.Lock()
	defer c.away.Unlock()
	if ctx.Err() != nil {
		return
	}
	if err := c.consul.Restart(ctx); err != nil && ctx.Err() == nil {
		fmt.Fprintf(os.Stderr, "Consul does not come back: %v\n", err)
		return
	}
	c.restarts.Add(1)
}
