package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"datapunk.dev/controlplane/admin/api"
)

const (
	// answerTime bounds what an answer may take to be made.
	answerTime = 20 * time.Second
	// decideTime bounds how long a decision waits for the catalog's source.
	decideTime = 5 * time.Second
	// maxBody bounds what is sent along: a mesh file of 1,000 services is 1 MB.
	maxBody = 16 << 20
)

// route is one operation of the API. The OpenAPI document is made of the same values
// that serve it.
type route struct {
	method  string
	pattern string // below [api.Prefix]
	summary string
	role    api.Role
	params  []param
	body    reflect.Type // of what is sent along; nil: nothing
	answer  reflect.Type
	stream  bool          // the answer is a stream of server-sent events
	slots   chan struct{} // as many as may be under way, see [atMost]; nil: any number
	serve   func(*call) (any, error)
}

// param is one of the query.
type param struct {
	name, says string
	values     []string // empty: any
	integer    bool
	required   bool
	repeats    bool // it may be given several times
}

// none is the type of what is not sent along.
type none struct{}

// call is one request that may be made.
type call struct {
	*http.Request
	w    http.ResponseWriter
	who  api.Caller
	body []byte
}

// read is a route that changes nothing.
func read[A any](pattern, summary string, answer func(*call) (A, error), params ...param) route {
	return route{
		method: http.MethodGet, pattern: pattern, summary: summary, role: api.Read, params: params, answer: reflect.TypeFor[A](),
		serve: func(c *call) (any, error) { return answer(c) },
	}
}

// ask is a route that changes nothing, and is sent something to look at.
func ask[B, A any](pattern, summary string, answer func(*call, B) (A, error), params ...param) route {
	r := act(pattern, summary, answer, params...)
	r.role = api.Read
	return r
}

// act is a route that changes something: it takes the role [api.Operate], and is
// recorded with who did it.
func act[B, A any](pattern, summary string, do func(*call, B) (A, error), params ...param) route {
	r := route{
		method: http.MethodPost, pattern: pattern, summary: summary, role: api.Operate, params: params, answer: reflect.TypeFor[A](),
		serve: func(c *call) (any, error) {
			var body B
			if _, empty := any(body).(none); empty {
				return do(c, body)
			}
			if err := unmarshal(c.body, &body); err != nil {
				return nil, &api.Error{Message: "the body: " + err.Error(), Reason: api.Invalid}
			}
			return do(c, body)
		},
	}
	if t := reflect.TypeFor[B](); t != reflect.TypeFor[none]() {
		r.body = t
	}
	return r
}

// atMost bounds how many calls of a route are under way, what they are sent along included.
func atMost(n int, r route) route {
	r.slots = make(chan struct{}, n)
	return r
}

// enter takes a place among the calls that may be under way.
func (r *route) enter() (leave func(), err error) {
	if r.slots == nil {
		return func() {}, nil
	}
	select {
	case r.slots <- struct{}{}:
		return func() { <-r.slots }, nil
	default:
		return nil, &api.Error{Message: fmt.Sprintf("%d others ask for the same", cap(r.slots)), Reason: api.Busy, Hint: "ask again"}
	}
}

// routes are the API.
func routes(src Sources) []route {
	return slices.Concat(statusRoutes(src), proxyRoutes(src), certificateRoutes(src), eventRoutes(src), revisionRoutes(src), planRoutes(src), checkRoutes(src), registrationRoutes(src), replicaRoutes(src), removalRoutes(src), rootRoutes(src), whyRoutes(src), describeRoutes(src))
}

// addRoutes serves the API, each answer within its time.
func addRoutes(mux *http.ServeMux, log *slog.Logger, src Sources, door door) {
	methods := make(map[string][]string) // by path
	for _, r := range routes(src) {
		path := api.Prefix + r.pattern
		mux.Handle(r.method+" "+path, door.guard(r.role, log, r.handler(log, src)))
		methods[path] = append(methods[path], r.method)
	}
	document := api.Prefix + "/openapi.json"
	mux.Handle("GET "+document, door.guard(api.Read, log, func(w http.ResponseWriter, _ *http.Request, _ api.Caller) {
		w.Header().Set("Content-Type", "application/json")
		if _, err := w.Write(api.Document); err != nil {
			log.Debug("the reader of an admin answer went away", "err", err)
		}
	}))
	for path, allowed := range methods {
		mux.Handle(path, door.guard(api.Read, log, func(w http.ResponseWriter, r *http.Request, _ api.Caller) {
			w.Header().Set("Allow", strings.Join(allowed, ", "))
			fail(w, log, &api.Error{Message: fmt.Sprintf("%s takes %s", r.URL.Path, strings.Join(allowed, " or ")), Reason: api.WrongMethod})
		}))
	}
	mux.Handle(api.Prefix+"/", door.guard(api.Read, log, func(w http.ResponseWriter, r *http.Request, _ api.Caller) {
		fail(w, log, &api.Error{Message: "no such path: " + r.URL.Path, Reason: api.NotFound, Hint: "see " + document})
	}))
}

func (r *route) handler(log *slog.Logger, src Sources) guarded {
	return func(w http.ResponseWriter, req *http.Request, who api.Caller) {
		c := &call{Request: req, w: w, who: who}
		leave, err := r.enter() // before anything of a body is in memory
		if err != nil {
			fail(w, log, err)
			return
		}
		defer leave()
		if err := r.check(c); err != nil {
			fail(w, log, err)
			return
		}
		if !r.stream {
			ctx, cancel := context.WithTimeout(req.Context(), answerTime)
			defer cancel()
			c.Request = req.WithContext(ctx)
		}
		answer, err := r.serve(c)
		if r.role == api.Operate && src.Acted != nil {
			src.Acted(who, req.URL.Path, err)
		}
		switch {
		case r.stream && err == nil: // it is written
		case err != nil:
			fail(w, log, err)
		default:
			reply(w, log, http.StatusOK, answer)
		}
	}
}

// check refuses what the route does not know, and reads what is sent along.
func (r *route) check(c *call) error {
	query := c.URL.Query()
	for _, name := range slices.Sorted(maps.Keys(query)) {
		i := slices.IndexFunc(r.params, func(p param) bool { return p.name == name })
		if i < 0 {
			return &api.Error{Message: "unknown parameter " + strconv.Quote(name), Reason: api.Invalid}
		}
		p, value := r.params[i], query.Get(name)
		if p.integer {
			if n, err := strconv.Atoi(value); err != nil || n < 1 {
				return &api.Error{Message: fmt.Sprintf("%s=%q: want a number above 0", name, value), Reason: api.Invalid}
			}
		}
		if len(p.values) > 0 && !slices.Contains(p.values, value) {
			return &api.Error{Message: fmt.Sprintf("%s=%q: want one of %q", name, value, p.values), Reason: api.Invalid}
		}
	}
	for _, p := range r.params {
		if p.required && query.Get(p.name) == "" {
			return &api.Error{Message: "want the parameter " + p.name, Reason: api.Invalid}
		}
	}
	if r.body == nil {
		return nil
	}
	var err error
	c.body, err = io.ReadAll(http.MaxBytesReader(c.w, c.Body, maxBody))
	if tooLarge := new(http.MaxBytesError); errors.As(err, &tooLarge) {
		return &api.Error{Message: fmt.Sprintf("the body is over %d MB", maxBody>>20), Reason: api.TooLarge}
	}
	return err
}

// query returns a parameter; empty: it is not given.
func (c *call) query(name string) string { return c.URL.Query().Get(name) }

// paging are the parameters of a list that may be long.
var paging = []param{
	{name: "limit", says: fmt.Sprintf("How many at most, %d by default and %d at most.", api.DefaultPage, api.MaxPage), integer: true},
	{name: "after", says: "What the last page said in next."},
}

// page returns the part of an ordered list that was asked for, and what the next one is
// after.
func page[T any](c *call, list []T, key func(T) string) (part []T, next string) {
	limit := api.DefaultPage
	if n, err := strconv.Atoi(c.query("limit")); err == nil {
		limit = min(n, api.MaxPage)
	}
	if after := c.query("after"); after != "" {
		i, found := slices.BinarySearchFunc(list, after, func(item T, after string) int {
			switch k := key(item); {
			case k < after:
				return -1
			case k > after:
				return 1
			}
			return 0
		})
		if found {
			i++
		}
		list = list[i:]
	}
	if len(list) <= limit {
		return list, ""
	}
	return list[:limit], key(list[limit-1])
}

// unmarshal reads JSON that has no key which nobody knows.
func unmarshal(data []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if d.More() {
		return errors.New("there is more behind it")
	}
	return nil
}

// statuses are the HTTP status of each reason.
var statuses = map[api.Reason]int{
	api.Invalid: http.StatusBadRequest, api.Unauthenticated: http.StatusUnauthorized, api.Forbidden: http.StatusForbidden,
	api.NotFound: http.StatusNotFound, api.WrongMethod: http.StatusMethodNotAllowed, api.Conflict: http.StatusConflict,
	api.TooLarge: http.StatusRequestEntityTooLarge, api.Busy: http.StatusTooManyRequests, api.Internal: http.StatusInternalServerError,
	api.Unavailable: http.StatusServiceUnavailable, api.Timeout: http.StatusGatewayTimeout,
}

// failed is err with a reason, unless it has one.
func failed(reason api.Reason, err error) error {
	if known := new(api.Error); errors.As(err, &known) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return &api.Error{Message: err.Error(), Reason: reason}
}

// fail answers why something was not done, in the one form of all errors.
func fail(w http.ResponseWriter, log *slog.Logger, err error) {
	var known *api.Error
	switch {
	case errors.As(err, &known):
	case errors.Is(err, context.DeadlineExceeded):
		known = &api.Error{Message: "it took too long: " + err.Error(), Reason: api.Timeout}
	default:
		log.Error("an admin request failed", "err", err)
		known = &api.Error{Message: err.Error(), Reason: api.Internal}
	}
	switch known.Reason {
	case api.Unauthenticated:
		w.Header().Set("WWW-Authenticate", "Bearer")
	case api.Busy:
		w.Header().Set("Retry-After", "1")
	}
	reply(w, log, statuses[known.Reason], known)
}

func reply(w http.ResponseWriter, log *slog.Logger, code int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	if err := json.NewEncoder(w).Encode(body); err != nil {
		log.Debug("the reader of an admin answer went away", "err", err)
	}
}
