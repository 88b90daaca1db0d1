package xds

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"datapunk.dev/controlplane/resource"
)

// Several replicas serve one fleet, and each sees the refusals of its own proxies. What
// one has in quarantine none of the others sends, and what one has proven good stays in
// quarantine at none. They tell each other which contents these are and nothing of what
// is in them: so whoever can write where they do so can hold back a change of the mesh, or
// let one through that proxies have refused, and make up none.

const (
	// maxShared bounds the contents of each list that a replica tells the others.
	maxShared = 100
	// maxSharedText bounds a text of them in bytes.
	maxSharedText = 500
)

type shared struct {
	Quarantined []sharedContent `json:"quarantined,omitempty"`
	// Proven are contents that another replica has in quarantine, and this one knows to
	// be good.
	Proven []sharedContent `json:"proven,omitempty"`
}

type sharedContent struct {
	Kind    resource.Kind `json:"kind,omitempty"`
	Type    string        `json:"type"`
	Name    string        `json:"name"`
	Version string        `json:"version"`
	Depends string        `json:"depends,omitempty"`
	Source  string        `json:"source,omitempty"`
	Message string        `json:"message,omitempty"`
	Since   time.Time     `json:"since,omitzero"`
	By      string        `json:"by,omitempty"` // empty: the one that says it
}

func (c *sharedContent) content() (content, error) {
	typ, err := typeNamed(c.Type)
	if err == nil && (c.Name == "" || c.Version == "" || c.Kind > resource.Proxyless) {
		err = fmt.Errorf("a %s without a name, a version or a kind", c.Type)
	}
	return content{kind: c.Kind, typ: typ, name: c.Name, version: c.Version}, err
}

// Shared returns what the other replicas are to know, which [Server.Agree] of theirs
// takes; nil: nothing.
func (s *Server) Shared() (json.RawMessage, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out shared
	for _, q := range s.quarantines.list {
		if q.content.typ == resource.Secret || len(out.Quarantined) == maxShared {
			continue
		}
		out.Quarantined = append(out.Quarantined, sharedContent{
			Kind: q.content.kind, Type: q.content.typ.String(), Name: q.content.name, Version: q.content.version, Depends: hexOf(q.depends),
			Source: cut(q.source), Message: cut(q.message), Since: q.since.UTC(), By: q.by,
		})
	}
	for _, c := range s.disputed {
		if s.tally.proved(c) && len(out.Proven) < maxShared {
			out.Proven = append(out.Proven, sharedContent{Kind: c.kind, Type: c.typ.String(), Name: c.name, Version: c.version})
		}
	}
	if out.Quarantined == nil && out.Proven == nil {
		return nil, nil
	}
	return json.Marshal(out)
}

func cut(text string) string { return text[:min(len(text), maxSharedText)] }

// decision is a content in quarantine at some replica, in one state of what it depends
// on.
type decision struct {
	content content
	depends uint64
}

// Agree takes what the other replicas that live have [Server.Shared], by their names. Of
// one whose word cannot be read the error says so, and of it nothing changes here.
func (s *Server) Agree(self string, others map[string]json.RawMessage) error {
	said := make(map[string]map[decision]bool)
	var adopted []*quarantine
	var proven, disputed []content
	var unread error
	for _, name := range slices.Sorted(maps.Keys(others)) {
		list, good, err := readShared(name, others[name])
		if err != nil {
			unread = fmt.Errorf("what replica %s has in quarantine: %w", name, err)
			continue
		}
		said[name] = make(map[decision]bool)
		for _, q := range list {
			said[name][decision{q.content, q.depends}] = true
			disputed = append(disputed, q.content)
		}
		adopted, proven = append(adopted, list...), append(proven, good...)
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	s.disputed = disputed
	// withdrawn: whoever decided lives, and does not say it any more.
	withdrawn := func(q *quarantine) bool {
		decided, lives := said[q.by]
		return q.by == self || lives && !decided[decision{q.content, q.depends}]
	}
	changed := false
	s.quarantines.list = slices.DeleteFunc(s.quarantines.list, func(q *quarantine) bool {
		ends := slices.Contains(proven, q.content) || q.by != "" && withdrawn(q)
		if ends {
			changed = true
			s.tally.forgetNacks(q.content, q.depends)
			s.options.Logger.Info("quarantine ended, as another replica says", "type", q.content.typ.String(), "name", q.content.name, "version", q.content.version)
		}
		return ends
	})
	for _, c := range proven {
		s.tally.prove(c)
	}
	for _, q := range adopted {
		if withdrawn(q) || s.quarantines.has(q.content) || s.tally.proved(q.content) {
			continue
		}
		changed = true
		q.instead = s.memory.recalled(q.content)
		s.quarantines.list = append(s.quarantines.list, q)
		s.served.rememberFallbacks(q)
		s.options.Logger.Error("content in quarantine for the whole fleet, as another replica says",
			"type", q.content.typ.String(), "name", q.content.name, "version", q.content.version, "source", q.source, "replica", q.by, "message", q.message)
	}
	if changed {
		s.keepLater()
		s.serveAgainLocked()
	}
	return unread
}

// readShared reads what a replica has shared.
func readShared(name string, data json.RawMessage) (list []*quarantine, proven []content, err error) {
	var in shared
	if len(data) == 0 {
		return nil, nil, nil
	}
	if err := json.Unmarshal(data, &in); err != nil {
		return nil, nil, err
	}
	if len(in.Quarantined) > maxShared || len(in.Proven) > maxShared {
		return nil, nil, fmt.Errorf("more than %d contents", maxShared)
	}
	for _, one := range in.Quarantined {
		c, err := one.content()
		if err != nil {
			return nil, nil, err
		}
		depends, err := strconv.ParseUint(one.Depends, 16, 64)
		if err != nil {
			return nil, nil, err
		}
		if one.By == "" {
			one.By = name
		}
		list = append(list, &quarantine{
			content: c, depends: depends, source: cut(one.Source), message: cut(one.Message), since: one.Since, idle: time.Now(), by: one.By,
		})
	}
	for _, one := range in.Proven {
		c, err := one.content()
		if err != nil {
			return nil, nil, err
		}
		proven = append(proven, c)
	}
	return list, proven, nil
}
