package control

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"datapunk.dev/controlplane/replica"
	"datapunk.dev/controlplane/translate"
	"datapunk.dev/controlplane/watch"
	"datapunk.dev/controlplane/xds"
)

// board is what Consul is to the stages of some replicas: what is written there is
// seen by all who can reach it.
type board struct {
	mu       sync.Mutex
	all      []*sharing
	leader   string
	stages   *replica.Stages
	away     bool
	writes   int
	history  []int
	refusing bool // whoever writes does not lead any more
}

// sharing is a loop whose stages are shared.
type sharing struct {
	*staged
	name    string
	board   *board
	holding bool // a mesh file that is newer than what it serves panics
}

// at is where the fleet is.
func (b *board) at() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.stages.At
}

func (b *board) tell() {
	b.mu.Lock()
	leader, stages, away, all := b.leader, b.stages, b.away, b.all
	var members []replica.Member
	for _, s := range all {
		members = append(members, replica.Member{Name: s.name, Stage: s.stagesShared().acknowledged()})
	}
	b.mu.Unlock()
	for _, s := range all {
		v := &replica.View{Self: s.name, Leader: leader, Leads: leader == s.name && !away, Members: members, Stages: stages}
		if away {
			v.Trouble = "connection refused"
		}
		s.stagesShared().seen(v)
	}
}

func (s *sharing) stagesShared() *sharedStages { return s.stages.shared }

func (b *board) write(_ context.Context, v *replica.View, next replica.Stages) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.refusing || !v.Leads {
		return replica.ErrNotLeading
	}
	b.stages = &next
	b.writes++
	b.history = append(b.history, next.At)
	return nil
}

// run tells all twice a second what there is, and has the leader look.
func (b *board) run(ctx context.Context) {
	for ctx.Err() == nil {
		b.tell()
		for _, s := range b.all {
			s.stagesShared().lead(ctx)
		}
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func startSharing(t *testing.T, b *board, files ...string) {
	t.Helper()
	for i, file := range files {
		s := &sharing{staged: &staged{t: t}, name: fmt.Sprint("r", i), board: b}
		s.Loop = NewLoop(slog.New(slog.DiscardHandler), func(next *translate.Snapshot, _ xds.Snapshot) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.published = append(s.published, next.Input.Stage)
		}, s.fleet.acked)
		s.share(&sharedStages{log: slog.New(slog.DiscardHandler), write: b.write, wake: s.look, said: func() {}}, func() bool { return true })
		translated := s.translate
		s.translate = func(last *translate.Snapshot, in translate.Input) *translate.Snapshot {
			s.mu.Lock()
			holding := s.holding
			s.mu.Unlock()
			if holding && in.Mesh != last.Input.Mesh {
				panic("of this mesh file")
			}
			return translated(last, in)
		}
		s.SetCatalog(watch.NewCatalog())
		s.SetMesh(mesh(t, file))
		run(t, s.Run)
		b.all = append(b.all, s)
	}
	if b.leader == "" {
		b.leader = "r0"
	}
	ctx, cancel := context.WithCancel(t.Context())
	var done sync.WaitGroup
	done.Go(func() { b.run(ctx) })
	t.Cleanup(func() { cancel(); done.Wait() })
	time.Sleep(time.Second)
}

func TestReplicasTakeTheStagesTogether(t *testing.T) {
	for _, on := range []string{permissive, strict} {
		synctest.Test(t, func(t *testing.T) {
			b := &board{}
			startSharing(t, b, plain, plain, plain)
			for _, s := range b.all {
				s.expect("at first", translate.Settled)
			}
			for _, s := range b.all {
				s.edit(on)
			}
			time.Sleep(time.Minute)
			for _, s := range b.all {
				s.expect("on", translate.Listening, translate.Calling, translate.Settled)
			}
			for _, s := range b.all {
				s.edit(plain)
			}
			time.Sleep(time.Minute)
			for _, s := range b.all {
				s.expect("off", translate.Calling, translate.Listening, translate.Settled)
			}
			b.mu.Lock()
			n := b.writes
			b.mu.Unlock()
			time.Sleep(time.Hour)
			b.mu.Lock()
			defer b.mu.Unlock()
			if b.writes != n {
				t.Errorf("%d writes when all was settled", b.writes-n)
			}
		})
	}
}

// No replica goes on while the proxies of another one do not have the last step, and
// none waits for ever.
func TestALeaderWaitsForTheProxiesOfOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &board{}
		startSharing(t, b, plain, plain)
		for _, s := range b.all {
			s.expect("at first", translate.Settled)
		}
		b.all[1].fleet.be(silent)
		for _, s := range b.all {
			s.edit(strict)
		}
		time.Sleep(stagePatience / 2)
		b.all[0].expect("the proxies of the other are silent", translate.Listening)
		b.all[1].fleet.be(!silent)
		time.Sleep(5 * time.Second)
		b.all[0].expect("they have answered", translate.Calling, translate.Settled)
		for _, s := range b.all {
			s.edit(plain)
		}
		b.all[1].fleet.be(silent)
		time.Sleep(3 * time.Minute)
		synctest.Wait()
		if got := b.at(); got != 0 {
			t.Errorf("of proxies that never answer the fleet is held up at %d", got)
		}
	})
}

// A mesh file that reaches one replica a minute before the other: the calls between
// their proxies are understood all the time.
func TestAnEditThatReachesOneReplicaFirst(t *testing.T) {
	both := map[translate.Stage]bool{translate.Listening: true, translate.Calling: true}
	for name, first := range map[string]int{"the leader": 0, "the other": 1} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := &board{}
				startSharing(t, b, plain, plain)
				b.all[first].edit(strict)
				time.Sleep(time.Minute)
				s := b.all[1-first]
				s.mu.Lock()
				stage := s.published[len(s.published)-1]
				s.mu.Unlock()
				if first == 0 {
					// The leader went on; the other has the old file, and takes and speaks mTLS.
					if stage != translate.Calling || b.at() != 3 {
						t.Errorf("the other is at stage %d while the fleet is at %d", stage, b.at())
					}
				} else if at := b.at(); at != 0 {
					t.Errorf("the fleet went on to %d without its leader", at)
				}
				s = b.all[first]
				s.mu.Lock()
				stage = s.published[len(s.published)-1]
				s.mu.Unlock()
				if first == 1 && !both[stage] {
					t.Errorf("the one that is ahead is at stage %d: it refuses plaintext, which the others speak", stage)
				}
				b.all[1-first].edit(strict)
				time.Sleep(time.Minute)
				for _, s := range b.all {
					s.mu.Lock()
					if last := s.published[len(s.published)-1]; last != translate.Settled {
						t.Errorf("%s ends at stage %d", s.name, last)
					}
					s.mu.Unlock()
				}
			})
		})
	}
}

// Without Consul nothing new begins; what was begun goes on when it is back.
func TestWithoutConsulNoStageBegins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &board{}
		startSharing(t, b, plain, plain)
		for _, s := range b.all {
			s.expect("at first", translate.Settled)
		}
		b.mu.Lock()
		b.away = true
		b.mu.Unlock()
		for _, s := range b.all {
			s.edit(strict)
		}
		time.Sleep(10 * time.Minute)
		for _, s := range b.all {
			s.expect("while it is away", translate.Listening) // takes both, and speaks as before
		}
		b.mu.Lock()
		b.away = false
		b.mu.Unlock()
		time.Sleep(time.Minute)
		for _, s := range b.all {
			s.expect("when it is back", translate.Calling, translate.Settled)
		}
	})
}

// A start while mTLS is half on goes where the others are, and not ahead of them.
func TestAReplicaThatStartsGoesWhereTheOthersAre(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &board{stages: &replica.Stages{Epoch: 7, At: 1}}
		b.leader = "nobody"
		startSharing(t, b, strict)
		b.all[0].expect("at first", translate.Listening)
	})
	synctest.Test(t, func(t *testing.T) { // and without Consul it serves what its file says
		b := &board{away: true}
		startSharing(t, b, strict)
		b.all[0].expect("at first", translate.Settled)
	})
}

// A leader that holds the mesh file of a stage does not go on, nor say that its proxies
// have the stage; when a later one comes in its place, nobody waits for it any more.
func TestALeaderDoesNotGoOnFromAStageThatItHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &board{}
		startSharing(t, b, plain, plain)
		leader := b.all[0]
		leader.mu.Lock()
		leader.holding = true
		leader.mu.Unlock()
		for _, s := range b.all {
			s.edit(strict)
		}
		time.Sleep(5 * time.Minute)
		if at := b.at(); at != 1 {
			t.Fatalf("the fleet is at %d, of which the leader has published nothing", at)
		}
		leader.mu.Lock()
		leader.holding = false
		leader.mu.Unlock()
		leader.edit(strict + "\n")
		time.Sleep(time.Minute)
		if at := b.at(); at != 3 {
			t.Errorf("the fleet is at %d when nothing is held any more", at)
		}
	})
}
