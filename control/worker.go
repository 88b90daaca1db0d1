package control

import (
	"context"
	"sync"
)

// worker is what runs at the place that a mesh file names, until another file names
// another place: then it ends, and gives up what it has there. Who owns it holds its own
// lock for begin and end.
type worker struct {
	run    func(context.Context)
	giveUp func()

	ctx  context.Context // ended with the worker
	stop context.CancelFunc
	done chan struct{} // closed when run has returned; nil: it did not begin
}

func newWorker(run func(context.Context), giveUp func()) *worker {
	w := &worker{run: run, giveUp: giveUp}
	w.ctx, w.stop = context.WithCancel(context.Background())
	return w
}

// begin runs it, once, until ctx ends too.
func (w *worker) begin(ctx context.Context, running *sync.WaitGroup) {
	if w.done != nil {
		return
	}
	w.done = make(chan struct{})
	running.Go(func() {
		defer context.AfterFunc(ctx, w.stop)()
		defer close(w.done)
		w.run(w.ctx)
	})
}

// end stops it. Nobody waits for what it has to give up.
func (w *worker) end() {
	w.stop()
	if w.done != nil {
		go w.finish()
	}
}

// finish waits until it has ended, and has it give up what it has. It does nothing for
// one that did not begin.
func (w *worker) finish() {
	if w.done != nil {
		<-w.done
		w.giveUp()
	}
}
