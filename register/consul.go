package register

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"datapunk.dev/controlplane/consul"
	"datapunk.dev/controlplane/watch"
)

// consulStore is a datacenter of Consul.
type consulStore struct {
	client *consul.Client
	mesh   string
	self   string

	mu      sync.Mutex
	session string // empty: there is none
}

func (c *consulStore) managedBy() string { return watch.ManagedBy + c.mesh }

func (c *consulStore) replicas() string { return c.managedBy() + "/replicas/" }

func (c *consulStore) key() string { return c.replicas() + c.self }

func (c *consulStore) sweeperKey() string { return c.managedBy() + "/sweeper" }

func kvPath(key string) string {
	parts := strings.Split(key, "/")
	for i, p := range parts {
		parts[i] = url.PathEscape(p)
	}
	return "/v1/kv/" + strings.Join(parts, "/")
}

// The parts of Consul's answers that are read.
type (
	apiNode struct {
		Node, Address string
		Meta          map[string]string
		ModifyIndex   uint64
	}
	apiService struct {
		ID, Service, Address string
		Port                 int
		Tags                 []string
		Meta                 map[string]string
		ModifyIndex          uint64
	}
	apiCheck struct{ CheckID, Status, Notes string }
	apiEntry struct {
		Node    apiNode
		Service apiService
		Checks  []apiCheck
	}
)

// CheckIDs of an entry.
func proxyCheck(id string) string { return id + ":proxy" }

// appCheck is written by whoever hears of the application.
func appCheck(id string) string { return id + ":app" }

func drainCheck(id string) string { return "_service_maintenance:" + id }

// markNotes tell our mark from that of an operator, who alone may take it off.
const markNotes = "controlplane"

// stored makes an entry of what Consul has; nil if it is not ours.
func (c *consulStore) stored(n *apiNode, s *apiService) *stored {
	if n.Meta[watch.MetaManagedBy] != c.managedBy() || s.Meta[watch.MetaManagedBy] != c.managedBy() || nodeName(s.ID) != strings.ToLower(n.Node) {
		return nil
	}
	meta := maps.Clone(s.Meta)
	owner := meta[watch.MetaOwner]
	since, _ := time.Parse(time.RFC3339, meta[watch.MetaSince])
	for _, key := range []string{watch.MetaOwner, watch.MetaManagedBy, watch.MetaSince} {
		delete(meta, key)
	}
	return &stored{
		entry: entry{
			node: strings.ToLower(n.Node), id: s.ID, service: s.Service, address: cmp.Or(s.Address, n.Address), port: uint16(s.Port),
			tags: s.Tags, meta: meta, health: Critical,
		},
		owner: owner, since: since, nodeIndex: n.ModifyIndex, nodeAddr: n.Address, index: s.ModifyIndex,
	}
}

// read implements store.
func (c *consulStore) read(ctx context.Context, services []string) (picture, error) {
	p := picture{at: time.Now(), services: services, foreign: make(map[place]string)}
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(readers)
	g.Go(func() (err error) {
		alive, err := c.alive(ctx)
		mu.Lock()
		defer mu.Unlock()
		p.alive = alive
		return err
	})
	for _, service := range services {
		g.Go(func() error {
			a, err := c.client.Do(ctx, consul.Request{Path: "/v1/health/service/" + url.PathEscape(service)})
			if err != nil {
				return err
			}
			var entries []apiEntry
			if err := a.Decode(&entries); err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			for i := range entries {
				c.add(&p, &entries[i])
			}
			return nil
		})
	}
	return p, g.Wait()
}

// readers is how many services are read at a time.
const readers = 8

func (c *consulStore) add(p *picture, e *apiEntry) {
	s := c.stored(&e.Node, &e.Service)
	if s == nil {
		at := place{e.Service.Service, cmp.Or(e.Service.Address, e.Node.Address), uint16(e.Service.Port)}
		p.foreign[at] = fmt.Sprintf("registered by others: %s on node %s", e.Service.ID, e.Node.Node)
		return
	}
	for _, check := range e.Checks {
		switch check.CheckID {
		case proxyCheck(s.id):
			s.health = Health(check.Status)
		case appCheck(s.id):
			s.app = Health(check.Status)
		case drainCheck(s.id):
			s.draining = check.Notes == markNotes
		}
	}
	p.stored = append(p.stored, s)
}

// alive returns the replicas that have a session.
func (c *consulStore) alive(ctx context.Context) (map[string]struct{}, error) {
	a, err := c.client.Do(ctx, consul.Request{Path: kvPath(c.replicas()), Params: url.Values{"keys": {""}}})
	alive := make(map[string]struct{})
	var status *consul.StatusError
	if errors.As(err, &status) && status.Code == http.StatusNotFound {
		return alive, nil
	}
	if err != nil {
		return nil, err
	}
	var keys []string
	if err := a.Decode(&keys); err != nil {
		return nil, err
	}
	for _, key := range keys {
		alive[strings.TrimPrefix(key, c.replicas())] = struct{}{}
	}
	return alive, nil
}

// look implements store. The index of the list of services passes with every
// instance that changes, that of the list of checks with every check: while both
// stand still nothing of ours has changed either.
func (c *consulStore) look(ctx context.Context) (look, error) {
	ours := url.Values{"node-meta": {watch.MetaManagedBy + ":" + c.managedBy()}}
	services, err := c.client.Do(ctx, consul.Request{Path: "/v1/catalog/services", Params: ours})
	if err != nil {
		return look{}, err
	}
	var names map[string][]string
	if err := services.Decode(&names); err != nil {
		return look{}, err
	}
	checks, err := c.client.Do(ctx, consul.Request{Path: "/v1/health/state/critical", Params: ours})
	if err != nil {
		return look{}, err
	}
	alive, err := c.alive(ctx)
	return look{fmt.Sprintf("%d %d", services.Index, checks.Index), slices.Collect(maps.Keys(names)), alive}, err
}

// readNode implements store.
func (c *consulStore) readNode(ctx context.Context, node, id string) nodeState {
	n := nodeState{node: node}
	a, err := c.client.Do(ctx, consul.Request{Path: "/v1/catalog/node-services/" + url.PathEscape(node)})
	var answer struct {
		Node     *apiNode
		Services []apiService
	}
	if err == nil {
		err = a.Decode(&answer)
	}
	switch {
	case err != nil:
		n.err = err.Error()
	case answer.Node == nil:
		n.missing = true
	case answer.Node.Meta[watch.MetaManagedBy] != c.managedBy():
		n.foreign = fmt.Sprintf("the node %s is not ours", answer.Node.Node)
	default:
		n.stored = &stored{entry: entry{node: node, id: id, address: answer.Node.Address}, nodeIndex: answer.Node.ModifyIndex, nodeAddr: answer.Node.Address}
		for i := range answer.Services {
			if s := c.stored(answer.Node, &answer.Services[i]); s != nil && s.id == id {
				// What its checks say was not read: they are written again.
				s.health, s.draining = "", true
				n.stored = s
				continue
			}
			if strings.EqualFold(answer.Services[i].ID, id) {
				n.foreign = fmt.Sprintf("registered by others: %s on node %s", answer.Services[i].ID, answer.Node.Node)
			}
			n.shared = true
		}
	}
	return n
}

// put makes a request with a body, and decodes its answer if into is not nil.
func (c *consulStore) put(ctx context.Context, path string, params url.Values, body, into any) error {
	r := consul.Request{Method: http.MethodPut, Path: path, Params: params}
	if body != nil {
		var err error
		if r.Body, err = json.Marshal(body); err != nil {
			return err
		}
	}
	a, err := c.client.Do(ctx, r)
	if err != nil || into == nil {
		return err
	}
	return a.Decode(into)
}
