//go:build slow

package main

import "testing"

// TestAThousandChangesASecond, for a minute, to 200 streams that all have the service:
// each has the last state in the end (else do does not return), none is sent more than
// there was, and nothing piles up.
func TestAThousandChangesASecond(t *testing.T) {
	t.Chdir("../..")
	r, err := sustained{title: t.Name(), kind: "ours", world: sidecars(200, 0), rate: 1000, seconds: 60}.do(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("measured: %.0f changes a second, p99 %.0f ms in the first second and %.0f ms in the last; %.0f MB at most, %.0f at the start; %.2f assignments a change and stream",
		r.Rate, r.FirstP99, r.LastP99, r.RSSMost, r.RSSStart, r.Delivered)
	if r.Delivered > 1 {
		t.Errorf("each stream was sent each change %.2f times", r.Delivered)
	}
	if r.RSSMost > 2*r.RSSStart+100 {
		t.Errorf("%.0f MB at most, %.0f at the start", r.RSSMost, r.RSSStart)
	}
}
