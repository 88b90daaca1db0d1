package admin

import (
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"strconv"
	"time"

	"datapunk.dev/controlplane/admin/api"
)

const (
	// streamPart is how many events are written at a time, and writeTime how long its
	// reader may take for them.
	streamPart = 100
	writeTime  = 10 * time.Second
	// streamComment is how often a stream without events shows that it is alive.
	streamComment = 15 * time.Second
	// maxStreams bounds the readers that wait at a time: connections to the admin address
	// are few.
	maxStreams = 32
)

// eventRoutes are what has happened, and what happens.
func eventRoutes(src Sources) []route {
	streams := make(chan struct{}, maxStreams)
	return []route{
		read("/events", "What has happened, after a cursor", func(c *call) (api.Events, error) {
			limit := api.DefaultPage
			if n, err := strconv.Atoi(c.query("limit")); err == nil {
				limit = min(n, api.MaxPage)
			}
			is, _ := src.Events(c.query("after"), limit)
			is.Elsewhere = src.others()
			return is, nil
		}, paging...),
		{
			method: http.MethodGet, pattern: "/events/stream", role: api.Read, stream: true, answer: reflect.TypeFor[api.Event](),
			summary: "What has happened after a cursor, and what happens from now on, as server-sent events: each an `event` of its kind with " +
				"the cursor as `id`. The event `missed` says that some are kept no more; a reader that is too slow is dropped.",
			params: []param{{name: "after", says: "The cursor; the header Last-Event-ID has it when a browser comes back."}},
			serve: func(c *call) (any, error) {
				select {
				case streams <- struct{}{}:
					defer func() { <-streams }()
				default:
					return nil, &api.Error{Message: fmt.Sprintf("%d others read the events", maxStreams), Reason: api.Busy}
				}
				src.stream(c)
				return nil, nil
			},
		},
	}
}

// stream writes events until the reader goes, or is too slow.
func (src *Sources) stream(c *call) {
	cursor := c.query("after")
	if last := c.Header.Get("Last-Event-ID"); last != "" {
		cursor = last
	}
	control := http.NewResponseController(c.w)
	c.w.Header().Set("Content-Type", "text/event-stream")
	c.w.Header().Set("Cache-Control", "no-store")
	c.w.WriteHeader(http.StatusOK)
	// Between two writes there is no deadline: over HTTP/2 one that passes ends the stream
	// though nothing is being written.
	flush := func() bool { return control.Flush() == nil && control.SetWriteDeadline(time.Time{}) == nil }
	if !flush() { // nobody should wait for the first event to know that there will be some
		return
	}
	write := func(text string) bool {
		if err := control.SetWriteDeadline(time.Now().Add(writeTime)); err != nil {
			return false
		}
		if _, err := c.w.Write([]byte(text)); err != nil {
			return false
		}
		return flush()
	}
	for first := true; ; first = false {
		is, changed := src.Events(cursor, streamPart)
		if is.Missed {
			if !write("event: missed\ndata: {}\n\n") || !first {
				return // it was there, and too slow
			}
		}
		for _, e := range is.Events {
			data, err := json.Marshal(e)
			if err != nil || !write(fmt.Sprintf("id: %s\nevent: %s\ndata: %s\n\n", e.Cursor, e.Kind, data)) {
				return
			}
		}
		cursor = is.Next
		if len(is.Events) == streamPart {
			continue
		}
		select {
		case <-changed:
		case <-time.After(streamComment):
			if !write(": nothing new\n\n") {
				return
			}
		case <-c.Context().Done():
			return
		}
	}
}
