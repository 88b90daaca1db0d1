package control

import (
	"context"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"datapunk.dev/controlplane/translate"
	"datapunk.dev/controlplane/watch"
)

// A change is measured from when its source was told of it until the last proxy
// has answered, one at a time; what nobody answers in a minute counts as one.
func TestConvergenceIsMeasuredFromTheSourceToTheLastACK(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var measured []time.Duration
		answers := make(chan chan struct{}, 10)
		l := NewLoop(slog.New(slog.DiscardHandler), func(*translate.Snapshot) {}, func(context.Context) <-chan struct{} {
			acked := make(chan struct{})
			answers <- acked
			return acked
		})
		l.ObserveConvergence(func(d time.Duration) { measured = append(measured, d) })
		run(t, l.Run)
		l.SetMesh(mesh(t, plain))
		catalog := watch.NewCatalog()
		change := func(port uint16, ago time.Duration) {
			catalog = catalog.Update([]*watch.Service{service("a", port)}, nil).LearnedAt(time.Now().Add(-ago))
			l.SetCatalog(catalog)
			synctest.Wait()
		}
		change(1000, 3*time.Millisecond)
		change(2000, time.Second) // not measured: another one is
		time.Sleep(20 * time.Millisecond)
		close(<-answers)
		synctest.Wait()
		change(2500, 0) // nor this one: the last was just now
		time.Sleep(convergenceEvery)
		change(3000, 0)
		time.Sleep(2 * time.Minute) // and nobody answers
		change(4000, time.Millisecond)
		<-answers
		close(<-answers)
		synctest.Wait()
		if want := []time.Duration{23 * time.Millisecond, time.Minute, time.Millisecond}; !slices.Equal(measured, want) {
			t.Errorf("measured %v, want %v", measured, want)
		}
	})
}
