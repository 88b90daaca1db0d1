package register

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"strings"
	"time"

	"datapunk.dev/controlplane/consul"
	"datapunk.dev/controlplane/watch"
)

const (
	// maxOps and maxBytes bound a transaction: Consul takes 128 operations, and
	// 512 KB.
	maxOps   = 128
	maxBytes = 400 << 10
)

// op is an operation of a transaction.
type op map[string]any

// write implements store.
func (c *consulStore) write(ctx context.Context, changes []change) []outcome {
	outcomes := make([]outcome, 0, len(changes))
	var batch []*pendingChange
	ops, size := 1, 0
	flush := func() {
		if len(batch) > 0 {
			outcomes = append(outcomes, c.transact(ctx, batch)...)
		}
		batch, ops, size = nil, 1, 0
	}
	for i := range changes {
		p := c.encode(&changes[i])
		if ops+len(p.ops) > maxOps || size+p.size > maxBytes {
			flush()
		}
		batch, ops, size = append(batch, p), ops+len(p.ops), size+p.size
	}
	flush()
	return outcomes
}

// pendingChange is a change as operations.
type pendingChange struct {
	*change
	ops  []json.RawMessage
	size int
}

func (p *pendingChange) add(o op) {
	text, err := json.Marshal(o)
	if err != nil {
		panic(err) // maps and texts
	}
	p.ops, p.size = append(p.ops, text), p.size+len(text)
}

func (p *pendingChange) outcome(r result, why string) outcome {
	return outcome{node: p.want.node, kind: p.kind, result: r, why: why}
}

func (c *consulStore) encode(ch *change) *pendingChange {
	p := &pendingChange{change: ch}
	e := ch.want
	if ch.kind != put {
		e = ch.have.entry
	}
	switch ch.kind {
	case put:
		switch {
		case ch.have == nil:
			p.add(c.nodeOp("cas", &e, 0))
		case ch.have.nodeAddr != e.address:
			p.add(c.nodeOp("cas", &e, ch.have.nodeIndex))
		}
		p.add(c.serviceOp("cas", &e, ch.index()))
		if ch.have == nil || ch.have.index == 0 || ch.have.health != e.health || ch.have.service != e.service {
			p.add(checkOp("set", &e, proxyCheck(e.id), "mesh", "", e.health))
		}
		switch {
		case e.app != "" && (ch.have == nil || ch.have.index == 0 || ch.have.app != e.app || ch.have.service != e.service):
			p.add(checkOp("set", &e, appCheck(e.id), "application", "", e.app))
		case !e.checked && ch.have != nil && (ch.have.app != "" || ch.have.health == "" && ch.have.index > 0):
			p.add(checkOp("delete", &e, appCheck(e.id), "", "", ""))
		}
		if ch.have != nil && ch.have.draining {
			p.add(checkOp("delete", &e, drainCheck(e.id), "", "", ""))
		}
	case assess:
		// Not by the index of the service: that is its owner's. Consul refuses it
		// where there is no such service.
		p.add(checkOp("set", &ch.want, appCheck(e.id), "application", "", ch.want.app))
	case mark:
		// That writes nothing new but the owner, and holds only if nobody else has.
		p.add(c.serviceOp("cas", &e, ch.index()))
		p.add(checkOp("set", &e, drainCheck(e.id), "Service Maintenance Mode", markNotes, Critical))
	case remove:
		p.add(op{"Service": map[string]any{"Verb": "delete-cas", "Node": e.node, "Service": map[string]any{
			"ID": e.id, "Service": e.service, "ModifyIndex": ch.index(),
		}}})
	case removeNode:
		p.add(op{"Node": map[string]any{"Verb": "delete-cas", "Node": map[string]any{"Node": e.node, "ModifyIndex": ch.have.nodeIndex}}})
	}
	return p
}

// index is that of the service which the change is based on.
func (ch *change) index() uint64 {
	if ch.have == nil {
		return 0
	}
	return ch.have.index
}

func (c *consulStore) nodeOp(verb string, e *entry, index uint64) op {
	return op{"Node": map[string]any{"Verb": verb, "Node": map[string]any{
		"Node": e.node, "Address": e.address, "Meta": map[string]string{watch.MetaManagedBy: c.managedBy()}, "ModifyIndex": index,
	}}}
}

func (c *consulStore) serviceOp(verb string, e *entry, index uint64) op {
	meta := make(map[string]string, len(e.meta)+3)
	maps.Copy(meta, e.meta)
	meta[watch.MetaManagedBy], meta[watch.MetaOwner], meta[watch.MetaSince] = c.managedBy(), c.self, time.Now().UTC().Format(time.RFC3339)
	return op{"Service": map[string]any{"Verb": verb, "Node": e.node, "Service": map[string]any{
		"ID": e.id, "Service": e.service, "Address": e.address, "Port": e.port, "Tags": e.tags, "Meta": meta,
		"Weights": map[string]int{"Passing": 1, "Warning": 1}, "ModifyIndex": index,
	}}}
}

// checkOp has the service's name too: without it a token for that service alone
// does not suffice.
func checkOp(verb string, e *entry, id, name, notes string, h Health) op {
	return op{"Check": map[string]any{"Verb": verb, "Check": map[string]any{
		"Node": e.node, "CheckID": id, "Name": name, "Notes": notes, "Status": h, "ServiceID": e.id, "ServiceName": e.service,
	}}}
}

// refusalOf is the body of a 409: nothing was written.
type refusalOf struct {
	Errors []struct {
		OpIndex int
		What    string
	}
}

// transact makes one transaction. What is refused of it is left out, and the rest
// tried again: nothing of a transaction holds unless all of it does.
func (c *consulStore) transact(ctx context.Context, batch []*pendingChange) []outcome {
	var outcomes []outcome
	for len(batch) > 0 {
		session := c.currentSession()
		if session == "" {
			return append(outcomes, all(batch, failed, errNoSession.Error())...)
		}
		fence, _ := json.Marshal(op{"KV": map[string]any{"Verb": "check-session", "Key": c.key(), "Session": session}})
		body := []json.RawMessage{fence}
		var of []int // which change an operation is of
		for i, p := range batch {
			for range p.ops {
				of = append(of, i)
			}
			body = append(body, p.ops...)
		}
		var answer struct {
			Results []struct {
				Node    *apiNode
				Service *apiService
			}
		}
		err := c.put(ctx, "/v1/txn", nil, body, &answer)
		if err == nil {
			indices := make(map[string]uint64)
			nodes := make(map[string]uint64)
			for _, r := range answer.Results {
				switch {
				case r.Node != nil:
					nodes[strings.ToLower(r.Node.Node)] = r.Node.ModifyIndex
				case r.Service != nil:
					indices[r.Service.ID] = r.Service.ModifyIndex
				}
			}
			for _, p := range batch {
				outcomes = append(outcomes, c.done(p, nodes, indices))
			}
			return outcomes
		}
		why := refusedOps(err)
		if why == nil || why[0] != "" {
			if why != nil {
				err = errNoSession
				c.drop(session)
			}
			return append(outcomes, all(batch, failed, err.Error())...)
		}
		delete(why, 0)
		var rest []*pendingChange
		bad := make(map[int]string)
		for at, what := range why {
			if at >= 1 && at <= len(of) && (bad[of[at-1]] == "" || isDenial(what)) {
				bad[of[at-1]] = what
			}
		}
		if len(bad) == 0 {
			return append(outcomes, all(batch, failed, err.Error())...)
		}
		for i, p := range batch {
			switch what, refused := bad[i]; {
			case !refused:
				rest = append(rest, p)
			case isDenial(what):
				outcomes = append(outcomes, p.outcome(denied, "Consul's token may not register it: "+what))
			default:
				outcomes = append(outcomes, p.outcome(conflict, what))
			}
		}
		batch = rest
	}
	return outcomes
}

func all(batch []*pendingChange, r result, why string) []outcome {
	outcomes := make([]outcome, 0, len(batch))
	for _, p := range batch {
		outcomes = append(outcomes, p.outcome(r, why))
	}
	return outcomes
}

// done is what is there after a change.
func (c *consulStore) done(p *pendingChange, nodes, indices map[string]uint64) outcome {
	o := p.outcome(written, "")
	switch p.kind {
	case put:
		o.stored = &stored{entry: p.want, owner: c.self, since: time.Now(), nodeAddr: p.want.address, index: indices[p.want.id]}
		if p.have != nil {
			o.stored.nodeIndex = p.have.nodeIndex
		}
		if index, ok := nodes[p.want.node]; ok {
			o.stored.nodeIndex = index
		}
	case assess:
		after := *p.have
		after.app = p.want.app
		o.stored = &after
	case mark:
		after := *p.have
		after.owner, after.draining, after.index = c.self, true, indices[p.have.id]
		o.stored = &after
	case remove:
		after := *p.have
		after.index = 0
		o.stored = &after
	}
	return o
}

// refusedOps returns what the operations of a transaction were refused for, nil if
// the error is another one.
func refusedOps(err error) map[int]string {
	var status *consul.StatusError
	if !errors.As(err, &status) || status.Code != http.StatusConflict {
		return nil
	}
	var refusal refusalOf
	if json.Unmarshal(status.Body, &refusal) != nil || len(refusal.Errors) == 0 {
		return nil
	}
	why := make(map[int]string)
	for _, e := range refusal.Errors {
		if why[e.OpIndex] == "" || isDenial(e.What) {
			why[e.OpIndex] = e.What
		}
	}
	return why
}

func isDenial(what string) bool {
	return strings.Contains(what, "Permission denied") || strings.Contains(what, "ACL not found")
}
