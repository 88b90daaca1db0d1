package xds

import (
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/time/rate"
)

// What streams cost decides how many may begin: dear ones fewer, cheap ones as many as
// ever, and after a while nothing is held against those that come.
func TestStreamsBeginAsFastAsTheyAreCheap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var cpu time.Duration
		c := &streamCost{limiter: rate.NewLimiter(1000, 1), most: 1000, used: func() time.Duration { return cpu }}
		storm := func(each time.Duration) (last int) {
			for range 10 { // seconds
				last = 0
				for range 10_000 {
					if c.limiter.Allow() {
						last++
						cpu += each
						c.began()
					}
					time.Sleep(100 * time.Microsecond)
				}
			}
			return last
		}
		cores := runtime.GOMAXPROCS(0)
		if n := storm(time.Duration(cores) * 4 * time.Millisecond); n < 150 || n > 250 {
			t.Errorf("%d streams a second, each of 4 ms of all cores, want 200", n)
		}
		time.Sleep(time.Minute)
		cpu += time.Hour // of other work
		if n := storm(time.Duration(cores) * 100 * time.Microsecond); n < 950 || n > 1050 {
			t.Errorf("%d cheap streams a second, want 1,000", n)
		}
		time.Sleep(time.Minute)
		if n := storm(time.Duration(cores) * time.Second); n < 80 || n > 120 {
			t.Errorf("%d of the dearest, want %d", n, leastRate)
		}
	})
}
