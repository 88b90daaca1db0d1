package sds

import (
	"container/heap"
	"encoding/hex"
	"math/rand/v2"
	"time"
)

// Retries of an issue that failed, with full jitter in the upper half.
const (
	retryFirst = time.Second
	retryMost  = 5 * time.Minute
	// Once nine tenths of a certificate's life are over, it is tried this often.
	retryUrgent = 30 * time.Second
)

// window is the part of the rotation over which the renewals are spread: from
// 75 to 100 % of it.
const window = 0.25

// draw is the certificate's own number in [0, 1): it decides, once, when in
// the window the certificate is renewed. To draw again at each look would
// gather the renewals at the beginning of the window. Serial numbers are
// random, so theirs will do.
func draw(serial string) float64 {
	b, err := hex.DecodeString(serial)
	if err != nil || len(b) < 8 {
		return 0
	}
	var n uint64
	for _, x := range b[len(b)-8:] {
		n = n<<8 | uint64(x)
	}
	return float64(n>>11) / (1 << 53)
}

// renewalOf returns when a certificate is to be renewed.
func renewalOf(s *svid, rotation time.Duration, now time.Time) time.Time {
	// A certificate that was issued for a shorter rotation, or cut short by its
	// issuer, may end before this rotation: half of its life is kept in hand.
	if life := s.notAfter.Sub(s.issued); rotation >= life {
		rotation = life / 2
	}
	due := s.issued.Add(scale(rotation, 1-window+window*draw(s.serial)))
	if due.Before(now) {
		return soon(s.serial, rotation, now)
	}
	return due
}

// soon spreads renewals that are overdue as widely as those that are not.
func soon(serial string, rotation time.Duration, now time.Time) time.Time {
	return now.Add(scale(rotation, window*draw(serial)))
}

func scale(d time.Duration, by float64) time.Duration {
	return time.Duration(float64(d) * by)
}

// retryAfter returns how long to wait after the given number of failures.
func retryAfter(failures int, urgent bool) time.Duration {
	d := retryMost
	if failures < 10 {
		d = min(retryFirst<<failures, retryMost)
	}
	if urgent {
		d = min(d, retryUrgent)
	}
	return d/2 + rand.N(d/2)
}

// queue holds leases in the order in which they are due. A lease is in it at
// most once.
type queue struct{ h leaseHeap }

func (q *queue) first() *Lease {
	if len(q.h) == 0 {
		return nil
	}
	return q.h[0]
}

// set puts a lease in, or moves it to where its time belongs.
func (q *queue) set(l *Lease) {
	if l.index >= 0 {
		heap.Fix(&q.h, l.index)
	} else {
		heap.Push(&q.h, l)
	}
}

func (q *queue) remove(l *Lease) {
	if l.index >= 0 {
		heap.Remove(&q.h, l.index)
	}
}

// leaseHeap implements [heap.Interface].
type leaseHeap []*Lease

func (h leaseHeap) Len() int           { return len(h) }
func (h leaseHeap) Less(i, j int) bool { return h[i].due.Before(h[j].due) }

func (h leaseHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

func (h *leaseHeap) Push(x any) {
	l := x.(*Lease)
	l.index = len(*h)
	*h = append(*h, l)
}

func (h *leaseHeap) Pop() any {
	last := len(*h) - 1
	l := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	l.index = -1
	return l
}
