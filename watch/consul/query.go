package consul

import (
	"context"
	"errors"
	"net/url"
	"strconv"
	"time"

	"datapunk.dev/controlplane/consul"
)

// query is one read of the catalog.
type query struct {
	path       string // escaped
	filter     string
	expect     int    // about how large the answer is
	index      uint64 // blocks until the catalog is past it; 0: answers at once
	leader     bool   // no other server is to answer
	consistent bool   // needs the leader, and its quorum's word that it is one
}

// refusal is a 200 that cannot be believed. As with a [consul.StatusError], the
// server is there.
type refusal struct{ message string }

func (e *refusal) Error() string { return e.message }

// get makes one query.
func (s *Source) get(ctx context.Context, q query) (*consul.Answer, error) {
	began := time.Now()
	a, err := s.client.Do(ctx, s.request(q))
	if err == nil && q.index == 0 && s.cfg.Answered != nil {
		s.cfg.Answered(time.Since(began))
	}
	if err == nil && a.Index == 0 {
		return nil, errors.New("the answer has no X-Consul-Index: it is not Consul's")
	}
	return a, err
}

func (s *Source) request(q query) consul.Request {
	r := consul.Request{Path: q.path, Params: url.Values{}, Expect: q.expect}
	switch {
	case q.consistent:
		r.Params.Set("consistent", "")
	case q.leader && s.cfg.Consistency == "stale":
	case s.cfg.Consistency != "default":
		r.Params.Set(s.cfg.Consistency, "")
	}
	if q.filter != "" {
		r.Params.Set("filter", q.filter)
	}
	if q.index > 0 {
		r.Params.Set("index", strconv.FormatUint(q.index, 10))
		r.Params.Set("wait", strconv.FormatInt(s.cfg.Wait.Milliseconds(), 10)+"ms")
		r.Wait = s.cfg.Wait
	}
	return r
}
