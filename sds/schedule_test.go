package sds

import (
	"fmt"
	"testing"
	"time"
)

// 10,000 proxies that connect within a minute must not renew together later.
func TestRenewalsOfALargeFleetStaySpread(t *testing.T) {
	const proxies = 10_000
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var issued []time.Time
	for i := range proxies {
		issued = append(issued, start.Add(time.Duration(i)*time.Minute/proxies))
	}
	for generation := 1; generation <= 5; generation++ {
		minutes := make(map[int64]int)
		peak := 0
		for i, at := range issued {
			serial, err := newSerial()
			if err != nil {
				t.Fatal(err)
			}
			s := &svid{serial: fmt.Sprintf("%x", serial), issued: at, notAfter: at.Add(2 * day)}
			due := renewalOf(s, day, at)
			if age := due.Sub(at); age < 18*time.Hour || age > day {
				t.Fatalf("renewal at an age of %s", age)
			}
			minutes[due.Unix()/60]++
			peak = max(peak, minutes[due.Unix()/60])
			issued[i] = due
		}
		t.Logf("generation %d: at most %d renewals in a minute", generation, peak)
		if peak >= 100 {
			t.Errorf("generation %d: %d renewals in one minute", generation, peak)
		}
	}
}

func TestAttemptsBackOff(t *testing.T) {
	for failures, most := range []time.Duration{1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300} {
		most *= time.Second
		for range 100 {
			if d := retryAfter(failures, false); d < most/2 || d >= most {
				t.Fatalf("after %d failures: %s, want %s to %s", failures, d, most/2, most)
			}
		}
	}
	if d := retryAfter(20, true); d >= retryUrgent {
		t.Errorf("short of expiry: %s", d)
	}
}
