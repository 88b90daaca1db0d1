package consul

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"datapunk.dev/controlplane/consul"
)

func TestStatusIsAbridged(t *testing.T) {
	b := newQueryHealth(slog.New(slog.DiscardHandler), new(counters))
	s := &Source{health: b}
	for i := range 250 {
		b.expect(fmt.Sprintf("service s%03d", i))
		b.hold(fmt.Sprintf("s%03d", i), "gone", nil)
	}
	st := s.Status()
	if len(st.Waiting) != 101 || st.Waiting[0] != "service s000: no answer yet" || st.Waiting[100] != "and 150 more" || len(st.Held) != 101 || st.HeldServices != 250 {
		t.Errorf("%d waiting, first %q, last %q; %d held", len(st.Waiting), st.Waiting[0], st.Waiting[len(st.Waiting)-1], len(st.Held))
	}
}

// A thousand queries that fail alike are one line, and one when they are well.
func TestBoardLogsAReasonOnce(t *testing.T) {
	var log strings.Builder
	b := newQueryHealth(slog.New(slog.NewTextHandler(&log, nil)), new(counters))
	var all []*subject
	for i := range 1000 {
		all = append(all, b.expect(fmt.Sprint(i)))
	}
	for range 3 {
		for _, sub := range all {
			b.failed(sub, errors.New("down"))
		}
	}
	b.failed(all[0], errors.New("worse"))
	for _, sub := range all {
		b.succeeded(sub)
	}
	b.forget(all[0])
	b.failed(all[0], errors.New("nobody listens"))
	if got := strings.Count(log.String(), "\n"); got != 4 || strings.Contains(log.String(), "nobody") {
		t.Errorf("%d lines:\n%s", got, log.String())
	}
}

// Whatever the answer is: no panic, and nothing that cannot be dialed.
func FuzzNormalise(f *testing.F) {
	f.Add([]byte(`[{"Node":{"Node":"n","Address":"10.0.0.1"},"Service":{"ID":"a","Port":80,"Weights":{"Passing":1}},"Checks":[{"CheckID":"c","Status":"warning"}]}]`))
	f.Add([]byte(`[{}]`))
	f.Add([]byte(`[null,{"Service":null,"Checks":[null]}]`))
	f.Fuzz(func(t *testing.T, body []byte) {
		var entries []entry
		if (&consul.Answer{Body: body}).Decode(&entries) != nil {
			return
		}
		s := normalise("s", entries, reading{})
		for _, i := range s.Instances {
			if i.Host == "" && !i.Address.IsValid() || i.Address.IsUnspecified() || i.Port == 0 || i.Weight > maxWeight {
				t.Errorf("instance %+v", i)
			}
		}
		if len(missing(s, answer{service: normalise("s", entries, reading{})})) > 0 || !s.Equal(normalise("s", entries, reading{})) {
			t.Error("two readings of one answer differ")
		}
	})
}
