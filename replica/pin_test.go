package replica

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

const first, second = "111111111111", "222222222222"

// texts are the revisions whose text Consul has.
func (f *fakeKV) texts() (all []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for key := range f.keys {
		if revision, ok := strings.CutPrefix(key, "controlplane/datapunk/revisions/"); ok {
			all = append(all, revision)
		}
	}
	slices.Sort(all)
	return all
}

// A word that any replica writes is known to all within a second, and its text is there
// before it is; when it is released the texts are gone, and the word stays.
func TestAPinIsKnownToAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeKV()
		all := start(t, f, "a", "b", "c")
		follower := all[1]
		pinned := Pin{Epoch: 1, Revision: first, By: "ada", Replica: "b", Since: time.Now().UTC()}
		if err := follower.WritePin(t.Context(), follower.View(), pinned, []byte("the first")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(beat)
		for _, o := range all {
			got := o.View().Pin
			if got == nil || got.Revision != first || got.By != "ada" || got.Epoch != 1 || !got.Since.Equal(pinned.Since) {
				t.Errorf("%s knows %+v", o.self, got)
			}
			if text, err := o.Text(t.Context(), first); err != nil || string(text) != "the first" {
				t.Errorf("%s has the text %q, %v", o.self, text, err)
			}
		}
		pinned.Epoch, pinned.Revision = 2, second
		if err := all[2].WritePin(t.Context(), all[2].View(), pinned, []byte("the second")); err != nil {
			t.Fatal(err)
		}
		if got := f.texts(); !slices.Equal(got, []string{second}) {
			t.Errorf("Consul has the texts of %v", got)
		}
		time.Sleep(beat)
		pinned.Epoch, pinned.Released = 3, true
		if err := all[0].WritePin(t.Context(), all[0].View(), pinned, nil); err != nil {
			t.Fatal(err)
		}
		time.Sleep(beat)
		if got := follower.View().Pin; got == nil || !got.Released || got.Epoch != 3 || len(f.texts()) != 0 {
			t.Errorf("after the release b knows %+v, and Consul has the texts of %v", got, f.texts())
		}
		if _, err := follower.Text(t.Context(), second); err == nil || !strings.Contains(err.Error(), "no key controlplane/datapunk/revisions/"+second+" in Consul") {
			t.Errorf("the text of what was released: %v", err)
		}
	})
}

// Of two operators at a time one is refused, and what the other has pinned stays whole.
func TestAPinThatIsBehindIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeKV()
		all := start(t, f, "a", "b")
		old := all[1].View()
		if err := all[0].WritePin(t.Context(), all[0].View(), Pin{Epoch: 1, Revision: first}, []byte("the first")); err != nil {
			t.Fatal(err)
		}
		for name, late := range map[string]Pin{"a pin": {Epoch: 1, Revision: second}, "a release": {Epoch: 1, Revision: second, Released: true}} {
			if err := all[1].WritePin(t.Context(), old, late, nil); !errors.Is(err, ErrBehind) {
				t.Errorf("%s that is behind: %v", name, err)
			}
		}
		time.Sleep(beat)
		if got := all[1].View().Pin; got.Revision != first || !slices.Equal(f.texts(), []string{first}) {
			t.Errorf("pinned is %+v, with the texts of %v", got, f.texts())
		}
	})
}

// Without Consul the word is as it was last, and none is written.
func TestWithoutConsulNothingIsPinned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeKV()
		all := start(t, f, "a", "b")
		if err := all[0].WritePin(t.Context(), all[0].View(), Pin{Epoch: 1, Revision: first}, []byte("the first")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(beat)
		f.setAway(true)
		time.Sleep(time.Minute)
		v := all[0].View()
		if v.Trouble == "" || v.Pin == nil || v.Pin.Revision != first {
			t.Errorf("without Consul a knows %+v, trouble %q", v.Pin, v.Trouble)
		}
		if err := all[0].WritePin(t.Context(), v, Pin{Epoch: 2, Revision: second}, []byte("the second")); err == nil {
			t.Error("something was pinned without Consul")
		}
	})
}

// One that was paused until its session was over writes none, though nobody else has.
func TestAPausedReplicaPinsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := start(t, newFakeKV(), "a", "b")
		paused := all[1].View()
		all[1].stop()
		time.Sleep(time.Minute)
		if err := all[1].WritePin(t.Context(), paused, Pin{Epoch: 1, Revision: first}, nil); !errors.Is(err, ErrBehind) {
			t.Errorf("its write: %v", err)
		}
	})
}

// What is no word of ours is shown as one that nobody has proven.
func TestAPinThatCannotBeReadIsNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeKV()
		all := start(t, f, "a")
		f.mu.Lock()
		f.put(&pair{Key: "controlplane/datapunk/fleet/pin", Value: []byte("{")})
		f.mu.Unlock()
		time.Sleep(beat)
		got := all[0].View().Pin
		if got == nil || got.Revision != "" || got.Proof != nil {
			t.Fatalf("it is read as %+v", got)
		}
		if err := all[0].WritePin(t.Context(), all[0].View(), Pin{Epoch: 1, Revision: first}, nil); err != nil {
			t.Errorf("nobody can replace it: %v", err)
		}
	})
}
