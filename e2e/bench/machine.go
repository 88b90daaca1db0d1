package main

import (
	"os"
	"strconv"
	"strings"
	"time"
)

// others measures what else used the machine meanwhile: where that is much, no
// time is to be believed.
type others struct {
	s     *subject
	began time.Time
	busy  float64
	known float64
}

func (s *subject) others() *others {
	return &others{s: s, began: time.Now(), busy: busy(), known: s.knownCPU()}
}

// cores is how many cores, on average, anything used that is no part of the
// measurement.
func (o *others) cores() float64 {
	return (busy() - o.busy - (o.s.knownCPU() - o.known)) / time.Since(o.began).Seconds()
}

// knownCPU is that of the streams, of the server and of the Consul beside it.
func (s *subject) knownCPU() float64 {
	server, beside, err := s.usages()
	if err != nil {
		return 0
	}
	return used().CPU + server.CPU + beside.CPU
}

// busy is what all cores together have been busy for, in seconds: all but idle
// and waiting, and what the host took away too.
func busy() float64 {
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(stat), "\n")
	total := 0.0
	for i, column := range strings.Fields(first) {
		// cpu user nice system idle iowait irq softirq steal
		if i == 0 || i == 4 || i == 5 || i > 8 {
			continue
		}
		ticks, _ := strconv.ParseFloat(column, 64)
		total += ticks / userHZ
	}
	return total
}

// userHZ is how many ticks /proc counts in a second.
const userHZ = 100
