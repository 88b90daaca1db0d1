package admin

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"datapunk.dev/controlplane/admin/api"
	"datapunk.dev/controlplane/journal"
)

// eventServer serves a journal.
func eventServer(t *testing.T) (*journal.Journal, *httptest.Server) {
	t.Helper()
	j := journal.New()
	src := everySource()
	src.Events = j.Read
	s := httptest.NewServer(Handler(discard, src))
	t.Cleanup(s.Close)
	return j, s
}

// listen reads a stream of events: of each its name and its cursor.
func listen(t *testing.T, s *httptest.Server, after, header string) (lines *bufio.Scanner, status int, head http.Header) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+api.Prefix+"/events/stream"+after, nil)
	if err != nil {
		t.Fatal(err)
	}
	if header != "" {
		r.Header.Set("Last-Event-ID", header)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = resp.Body.Close() })
	return bufio.NewScanner(resp.Body), resp.StatusCode, resp.Header
}

// next is the next event of a stream.
func next(t *testing.T, lines *bufio.Scanner) (name string, e api.Event) {
	t.Helper()
	for lines.Scan() {
		line := lines.Text()
		if text, ok := strings.CutPrefix(line, "event: "); ok {
			name = text
		}
		if data, ok := strings.CutPrefix(line, "data: "); ok {
			if err := json.Unmarshal([]byte(data), &e); err != nil {
				t.Fatal(err)
			}
			return name, e
		}
	}
	t.Fatalf("the stream has ended: %v", lines.Err())
	return "", e
}

// A stream has what was there, and then what comes, as it comes; who comes back with the
// last cursor goes on behind it.
func TestAStreamOfEvents(t *testing.T) {
	j, s := eventServer(t)
	j.Add(api.Event{Kind: api.MeshInForce, Message: "one"})
	lines, _, head := listen(t, s, "", "")
	if got := head.Get("Content-Type"); got != "text/event-stream" {
		t.Errorf("it is %s", got)
	}
	name, first := next(t, lines)
	if name != "mesh_in_force" || first.Message != "one" || first.Cursor == "" {
		t.Errorf("%s %+v", name, first)
	}
	j.Add(api.Event{Kind: api.ProxyLeft, Node: "lake-1", Message: "two"})
	if name, e := next(t, lines); name != "proxy_left" || e.Message != "two" || e.Node != "lake-1" {
		t.Errorf("%s %+v", name, e)
	}
	for _, again := range []struct{ query, header string }{{"?after=" + first.Cursor, ""}, {"", first.Cursor}, {"?after=nonsense", first.Cursor}} {
		lines, _, _ := listen(t, s, again.query, again.header)
		if _, e := next(t, lines); e.Message != "two" {
			t.Errorf("%+v: it goes on with %+v", again, e)
		}
	}
	lines, _, _ = listen(t, s, "?after=of-another-life", "")
	if name, _ := next(t, lines); name != "missed" {
		t.Errorf("an old cursor is answered by %s", name)
	}
	if _, e := next(t, lines); e.Message != "one" {
		t.Errorf("and then by %+v", e)
	}
}

// Who begins on a control plane that has long run has all that there is, also behind the
// events of operators that are older than what is gone of the crowd; and goes on from
// there when the stream breaks.
func TestAStreamThatBeginsLateMissesNothing(t *testing.T) {
	j, s := eventServer(t)
	const acts = 3 * streamPart
	for i := range acts {
		j.Add(api.Event{Kind: api.Acted, Message: fmt.Sprint(i)})
	}
	for range 5000 { // more than are kept
		j.Add(api.Event{Kind: api.ProxyConnected, Node: "lake-1"})
	}
	lines, _, _ := listen(t, s, "", "")
	var cursor string
	for i := range acts / 2 {
		name, e := next(t, lines)
		if name != string(api.Acted) || e.Message != fmt.Sprint(i) {
			t.Fatalf("after %d events comes %s %s", i, name, e.Message)
		}
		cursor = e.Cursor
	}
	lines, _, _ = listen(t, s, "", cursor)
	for i := range acts {
		if name, _ := next(t, lines); name == "missed" {
			t.Fatalf("it is said to have missed something after %d events", i)
		}
	}
}

// Nobody waits for a reader that does not read: it is dropped, and told why if it reads
// again.
func TestASlowReaderOfEventsIsDropped(t *testing.T) {
	j, s := eventServer(t)
	lines, _, _ := listen(t, s, "", "")
	j.Add(api.Event{Kind: api.Acted, Message: "first"})
	next(t, lines)
	// More than the connection holds and the journal keeps, without a pause.
	long := strings.Repeat("x", 8<<10)
	for i := range 5000 {
		j.Add(api.Event{Kind: api.ProxyConnected, Node: fmt.Sprint(i), Message: long})
	}
	missed := false
	for lines.Scan() {
		missed = missed || lines.Text() == "event: missed"
	}
	if !missed {
		t.Errorf("it was not told: %v", lines.Err())
	}
}

// So many may read at a time, and no more.
func TestReadersOfEventsAreBounded(t *testing.T) {
	j, s := eventServer(t)
	j.Add(api.Event{Kind: api.Acted})
	for range maxStreams {
		lines, _, _ := listen(t, s, "", "")
		next(t, lines)
	}
	if _, status, head := listen(t, s, "", ""); status != http.StatusTooManyRequests || head.Get("Retry-After") == "" {
		t.Errorf("one more is answered %d", status)
	}
}

// So many plans are made at a time; who comes meanwhile is told to come again.
func TestPlansAreBounded(t *testing.T) {
	src := everySource()
	began, end := make(chan struct{}, maxPlans), make(chan struct{})
	src.Plan = func(context.Context, []api.File) (api.Plan, error) {
		began <- struct{}{}
		<-end
		return api.Plan{}, nil
	}
	h := Handler(discard, src)
	body := `{"files": [{"name": "x", "content": "mesh: {}"}]}`
	codes := make(chan int, maxPlans)
	for range maxPlans {
		go func() {
			code, _ := request(h, http.MethodPost, "/api/v1/plan", "", body)
			codes <- code
		}()
		<-began
	}
	if code, answer := request(h, http.MethodPost, "/api/v1/plan", "", body); code != http.StatusTooManyRequests || !strings.Contains(answer, `"reason":"busy"`) {
		t.Errorf("one more: %d %s", code, answer)
	}
	close(end)
	for range maxPlans {
		if code := <-codes; code != http.StatusOK {
			t.Errorf("a plan: %d", code)
		}
	}
	for _, wrong := range []string{"", "{}", `{"files": []}`, `{"fils": []}`, "[]", body + body} {
		if code, answer := request(h, http.MethodPost, "/api/v1/plan", "", wrong); code != http.StatusBadRequest {
			t.Errorf("%q: %d %s", wrong, code, answer)
		}
	}
	if code, _ := request(h, http.MethodPost, "/api/v1/plan", "", `{"files": [{"content": "`+strings.Repeat("x", maxBody)+`"}]}`); code != http.StatusRequestEntityTooLarge {
		t.Errorf("a large body: %d", code)
	}
}

// unread is a body that nobody may read.
type unread struct{ t *testing.T }

func (u unread) Read([]byte) (int, error) {
	u.t.Error("its body is read")
	return 0, io.EOF
}

// What is sent to be planned is read by as many as may plan, so that no crowd of callers
// fills the memory with it.
func TestBodiesOfPlansAreBounded(t *testing.T) {
	h := Handler(discard, everySource())
	ends := make([]*io.PipeWriter, maxPlans)
	done := make(chan int, maxPlans)
	for i := range ends {
		body, w := io.Pipe()
		ends[i] = w
		go func() {
			answer := httptest.NewRecorder()
			h.ServeHTTP(answer, httptest.NewRequest(http.MethodPost, "/api/v1/plan", body))
			done <- answer.Code
		}()
		if _, err := w.Write([]byte(`{"files": [`)); err != nil { // returns when it is read
			t.Fatal(err)
		}
	}
	answer := httptest.NewRecorder()
	h.ServeHTTP(answer, httptest.NewRequest(http.MethodPost, "/api/v1/plan", unread{t}))
	if answer.Code != http.StatusTooManyRequests {
		t.Errorf("one more is answered %d", answer.Code)
	}
	for _, w := range ends {
		_ = w.Close()
	}
	for range ends {
		if code := <-done; code != http.StatusBadRequest {
			t.Errorf("half a body is answered %d", code)
		}
	}
	if code, _ := request(h, http.MethodPost, "/api/v1/plan", "", "{}"); code != http.StatusBadRequest {
		t.Errorf("afterwards: %d", code)
	}
}

// http2Writer is a response over HTTP/2 as its write deadline goes: the stream is reset
// when it passes, whether something is being written or not.
type http2Writer struct {
	header   http.Header
	written  atomic.Int32
	deadline *time.Timer
	reset    atomic.Bool
}

func (w *http2Writer) Header() http.Header { return w.header }
func (w *http2Writer) WriteHeader(int)     {}
func (w *http2Writer) FlushError() error   { return nil }

func (w *http2Writer) Write(data []byte) (int, error) {
	if w.reset.Load() {
		return 0, errors.New("the stream is reset")
	}
	w.written.Add(1)
	return len(data), nil
}

func (w *http2Writer) SetWriteDeadline(at time.Time) error {
	if w.deadline != nil {
		w.deadline.Stop()
	}
	w.deadline = nil
	if !at.IsZero() {
		w.deadline = time.AfterFunc(time.Until(at), func() { w.reset.Store(true) })
	}
	return nil
}

// A stream stays however long nothing happens, over HTTP/2 too, where the server's own
// time for an answer would end it.
func TestAnIdleStreamOfEventsStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		j := journal.New()
		src := everySource()
		src.Events = j.Read
		w := &http2Writer{header: make(http.Header)}
		if err := w.SetWriteDeadline(time.Now().Add(time.Minute)); err != nil { // http.Server's WriteTimeout
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			Handler(discard, src).ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodGet, api.Prefix+"/events/stream", nil))
		}()
		j.Add(api.Event{Kind: api.Acted})
		time.Sleep(10*streamComment + time.Second)
		if got := w.written.Load(); got != 11 || w.reset.Load() {
			t.Errorf("an event and its comments are written %d times, reset %t", got, w.reset.Load())
		}
		cancel()
		<-done
	})
}
