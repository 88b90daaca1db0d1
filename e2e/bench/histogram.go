package main

import (
	"slices"
	"sync/atomic"
	"time"
)

// histogram counts durations in steps of a tenth of a millisecond. It is safe
// for concurrent use: every stream counts in it.
type histogram struct {
	counts [300_000]atomic.Uint32 // to half a minute; what is longer is in the last
	total  atomic.Uint64
	most   atomic.Int64
}

const histogramStep = 100 * time.Microsecond

func (h *histogram) add(d time.Duration) {
	h.counts[min(max(int(d/histogramStep), 0), len(h.counts)-1)].Add(1)
	h.total.Add(1)
	for most := h.most.Load(); int64(d) > most && !h.most.CompareAndSwap(most, int64(d)); {
		most = h.most.Load()
	}
}

// percentile returns the step that p percent of the durations do not exceed, in
// milliseconds.
func (h *histogram) percentile(p int) float64 {
	rank, seen := h.total.Load()*uint64(p)/100, uint64(0)
	for i := range h.counts {
		if seen += uint64(h.counts[i].Load()); seen > rank {
			return ms(time.Duration(i+1) * histogramStep)
		}
	}
	return ms(time.Duration(h.most.Load()))
}

func ms(d time.Duration) float64 { return d.Seconds() * 1e3 }

// percentile returns the smallest value that p percent of the values do not
// exceed.
func percentile(values []float64, p int) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	return sorted[min(len(sorted)-1, len(sorted)*p/100)]
}
