package main

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"datapunk.dev/controlplane/e2e/run"
)

// columns are what is sampled, and by which metric.
var columns = []struct {
	name, metric string
	per          float64
	// flat is by which factor the last third may be above the second; 0: not judged.
	flat float64
}{
	{"resident memory, MB", "process_resident_memory_bytes", 1 << 20, 1.15},
	{"heap in use, MB", "go_memstats_heap_inuse_bytes", 1 << 20, 1.25},
	{"goroutines", "go_goroutines", 1, 1.1},
	{"descriptors", "process_open_fds", 1, 1.1},
	{"streams", "controlplane_xds_streams", 1, 1.1},
	{"CPU, s", "process_cpu_seconds_total", 1, 0},
}

// watch samples the control plane until ctx ends, into a file too.
func watch(ctx context.Context, plane *run.ControlPlane, path string) (samples [][]float64, err error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	w := csv.NewWriter(f)
	defer func() { w.Flush(); err = errors.Join(err, w.Error(), f.Close()) }()
	head := []string{"seconds"}
	for _, c := range columns {
		head = append(head, c.name)
	}
	if err := w.Write(head); err != nil {
		return nil, err
	}
	began := time.Now()
	for tick := time.NewTicker(every); ; {
		select {
		case <-ctx.Done():
			return samples, nil
		case <-tick.C:
		}
		metrics, err := plane.Metrics()
		if err != nil {
			return samples, err
		}
		line := []string{strconv.Itoa(int(time.Since(began).Seconds()))}
		var sample []float64
		for _, c := range columns {
			v := sum(metrics, c.metric) / c.per
			sample = append(sample, v)
			line = append(line, strconv.FormatFloat(v, 'f', 1, 64))
		}
		samples = append(samples, sample)
		if err := w.Write(line); err != nil {
			return samples, err
		}
		w.Flush()
	}
}

// judge says what grew: the most of the last third against the most of the second.
// The first is a warm-up.
func judge(samples [][]float64) error {
	n := len(samples)
	if n < 9 {
		return fmt.Errorf("%d samples are too few to say what grows", n)
	}
	var errs []error
	for i, c := range columns {
		most := func(part [][]float64) (high float64) {
			for _, s := range part {
				high = max(high, s[i])
			}
			return high
		}
		second, last := most(samples[n/3:2*n/3]), most(samples[2*n/3:])
		fmt.Printf("%s: at most %.1f in the second third, %.1f in the last\n", c.name, second, last)
		if c.flat > 0 && last > second*c.flat {
			errs = append(errs, fmt.Errorf("%s grew from %.1f to %.1f", c.name, second, last))
		}
	}
	return errors.Join(errs...)
}

// sum is a metric with all its labels.
func sum(metrics run.Metrics, name string) (total float64) {
	for series, v := range metrics {
		if bare, _, _ := strings.Cut(series, "{"); bare == name {
			total += v
		}
	}
	return total
}
