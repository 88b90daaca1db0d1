//go:build slow

package main

import (
	"path/filepath"
	"testing"
	"time"
)

// TestAShortSoak is what `make soak` does in half an hour, in a minute.
func TestAShortSoak(t *testing.T) {
	if err := soak(t.Context(), time.Minute, filepath.Join(t.TempDir(), "soak.csv")); err != nil {
		t.Error(err)
	}
}

// What grows is told from what does not.
func TestWhatGrowsIsSaid(t *testing.T) {
	sample := func(n int, growth float64) (all [][]float64) {
		for i := range n {
			s := make([]float64, len(columns))
			for c := range s {
				s[c] = 100 + growth*float64(i)
			}
			all = append(all, s)
		}
		return all
	}
	if err := judge(sample(90, 0)); err != nil {
		t.Error(err)
	}
	if judge(sample(90, 3)) == nil || judge(sample(5, 0)) == nil {
		t.Error("growth, or too few samples, is nothing to it")
	}
}
