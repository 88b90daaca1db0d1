package control

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"datapunk.dev/controlplane/translate"
	"datapunk.dev/controlplane/watch"
	"datapunk.dev/controlplane/xds"
)

// A change is measured from when it happened until the last proxy that it concerns has
// answered; what nobody answers in a minute counts as one, and what concerns nobody is
// not measured.
func TestConvergenceIsMeasuredFromTheChangeToTheLastACK(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ofCatalog, ofMesh []time.Duration
		answers := make(chan chan struct{}, 10)
		concerned := true
		l := NewLoop(slog.New(slog.DiscardHandler), func(*translate.Snapshot, xds.Snapshot) {}, nil)
		l.ObserveConvergence(func(context.Context) <-chan struct{} {
			if !concerned {
				return nil
			}
			acked := make(chan struct{})
			answers <- acked
			return acked
		}, func(d time.Duration) { ofCatalog = append(ofCatalog, d) }, func(d time.Duration) { ofMesh = append(ofMesh, d) })
		run(t, l.Run)
		l.SetMesh(mesh(t, plain))
		catalog := watch.NewCatalog()
		change := func(port uint16, ago time.Duration) {
			catalog = catalog.Update([]*watch.Service{service("a", port)}, nil).LearnedAt(time.Now().Add(-ago))
			l.SetCatalog(catalog)
			synctest.Wait()
		}
		change(1000, 3*time.Millisecond)
		change(2000, time.Second) // not measured: the last was just now
		time.Sleep(20 * time.Millisecond)
		close(<-answers)
		time.Sleep(convergenceEvery)
		concerned = false
		change(2500, 0)
		concerned = true
		change(3000, 0)
		time.Sleep(2 * time.Minute) // and nobody answers
		change(4000, time.Millisecond)
		<-answers
		close(<-answers)

		// Edits are measured each, from when they were written.
		edit := func(text string, ago time.Duration) chan struct{} {
			l.SetEdit(mesh(t, text), time.Now().Add(-ago))
			synctest.Wait()
			return <-answers
		}
		first := edit(strings.Replace(plain, "{name", "{version: '2', name", 1), 300*time.Millisecond)
		second := edit(plain, 200*time.Millisecond)
		time.Sleep(50 * time.Millisecond)
		close(second)
		synctest.Wait()
		close(first)
		synctest.Wait()
		if want := []time.Duration{23 * time.Millisecond, time.Minute, time.Millisecond}; !slices.Equal(ofCatalog, want) {
			t.Errorf("of the catalog: %v, want %v", ofCatalog, want)
		}
		if want := []time.Duration{250 * time.Millisecond, 350 * time.Millisecond}; !slices.Equal(ofMesh, want) {
			t.Errorf("of the mesh file: %v, want %v", ofMesh, want)
		}
	})
}
