package consul

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// several returns a client of three addresses, each of which answers as its own says.
func several(t *testing.T, answers map[string]roundTripper) *Client {
	t.Helper()
	c, err := New(Config{Address: "a:8500", Fallbacks: []string{"b:8500", "c:8500"}, RoundTripper: roundTripper(func(req *http.Request) (*http.Response, error) {
		if answer := answers[req.URL.Host]; answer != nil {
			return answer(req)
		}
		return reply(200, "[]"), nil
	})})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func hang(req *http.Request) (*http.Response, error) {
	<-req.Context().Done()
	return nil, req.Context().Err()
}

func leaderless(*http.Request) (*http.Response, error) { return reply(500, "No cluster leader"), nil }

// Requests that have an answer stay where they are; those that have none go on to the
// next address, and on from the last to the first.
func TestTheNextAddressIsAskedWhenOneAnswersNothing(t *testing.T) {
	refused := roundTripper(func(*http.Request) (*http.Response, error) { return nil, dialError("connection refused") })
	for name, tt := range map[string]struct {
		answers map[string]roundTripper
		asks    int // until it is there
		want    string
	}{
		"all is well":                  {nil, 5, "a:8500"},
		"it refuses connections":       {map[string]roundTripper{"a:8500": refused}, 1, "b:8500"},
		"two refuse":                   {map[string]roundTripper{"a:8500": refused, "b:8500": refused}, 2, "c:8500"},
		"all refuse: the first again":  {map[string]roundTripper{"a:8500": refused, "b:8500": refused, "c:8500": refused}, 3, "a:8500"},
		"it hangs":                     {map[string]roundTripper{"a:8500": hang}, 2, "b:8500"},
		"it has no leader":             {map[string]roundTripper{"a:8500": leaderless}, 2, "b:8500"},
		"it refuses the request":       {map[string]roundTripper{"a:8500": func(*http.Request) (*http.Response, error) { return reply(403, "Permission denied"), nil }}, 5, "a:8500"},
		"it has an error of its own":   {map[string]roundTripper{"a:8500": func(*http.Request) (*http.Response, error) { return reply(500, "raft is closed"), nil }}, 5, "a:8500"},
		"one refuses, the other hangs": {map[string]roundTripper{"a:8500": refused, "b:8500": hang}, 3, "c:8500"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := several(t, tt.answers)
				for range tt.asks {
					_, _ = c.Do(t.Context(), Request{Path: "/"})
				}
				if got := c.Address(); got != tt.want {
					t.Errorf("%s is asked, want %s", got, tt.want)
				}
			})
		})
	}
}

// A blocking query may be cut off by whatever stands in between, and says nothing of
// the address; that its caller gives up neither.
func TestWhatSaysNothingOfAnAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := several(t, map[string]roundTripper{"a:8500": hang})
		for range 3 {
			_, _ = c.Do(t.Context(), Request{Path: "/", Wait: time.Second})
		}
		for range 3 {
			ctx, cancel := context.WithCancel(t.Context())
			go func() { time.Sleep(time.Second); cancel() }()
			_, _ = c.Do(ctx, Request{Path: "/"})
		}
		if got := c.Address(); got != "a:8500" {
			t.Errorf("%s is asked", got)
		}
	})
}

// Whoever moves on has what is under way there given up, once.
func TestMovingOnGivesUpWhatIsUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := several(t, map[string]roundTripper{"a:8500": hang})
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				if _, err := c.Do(t.Context(), Request{Path: "/", Wait: time.Minute}); !errors.Is(err, ErrMoved) {
					t.Errorf("%v, want %v", err, ErrMoved)
				}
				if _, err := c.Do(t.Context(), Request{Path: "/"}); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		began := time.Now()
		for range 3 {
			c.MoveOn("a:8500")
		}
		wg.Wait()
		if got := c.Address(); got != "b:8500" || time.Since(began) > 0 {
			t.Errorf("%s is asked, after %s", got, time.Since(began))
		}
	})
}
