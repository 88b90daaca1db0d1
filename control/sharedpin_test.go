package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"datapunk.dev/controlplane/admin/api"
	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/replica"
)

// pinKV is what Consul is to the pins of some replicas.
type pinKV struct {
	mu    sync.Mutex
	all   []*Plane
	word  *replica.Pin
	texts map[string][]byte
	away  string // why nothing is written, or read
	lost  bool   // it has no texts
}

func (k *pinKV) WritePin(_ context.Context, _ *replica.View, next replica.Pin, text []byte) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.away != "" {
		return errors.New(k.away)
	}
	k.word, k.texts[next.Revision] = &next, text
	return nil
}

func (k *pinKV) PinText(_ context.Context, revision string) ([]byte, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.away != "" || k.lost {
		return nil, errors.New("connection refused")
	}
	return k.texts[revision], nil
}

// tell has each replica follow what there is.
func (k *pinKV) tell(t *testing.T) {
	t.Helper()
	for _, p := range k.all {
		k.mu.Lock()
		v := &replica.View{Self: p.registrations.replica, Trouble: k.away, Pin: k.word}
		k.mu.Unlock()
		p.pins.seen(v)
		p.followPin(t.Context())
	}
}

// served is a mesh file of a version, with a secret of the environment.
func servedFile(version string) string {
	return "mesh: {name: datapunk, version: '" + version + "', discovery: {consul: {host: '${SECRET}'}}}\n"
}

// begin starts a replica that serves a mesh file, with the keys of the first.
func (k *pinKV) begin(t *testing.T, file string, variables ...string) *Plane {
	t.Helper()
	dir := t.TempDir()
	data := filepath.Join(dir, "data")
	if len(k.all) > 0 {
		if err := os.Mkdir(data, 0o700); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"ca.pem", "ca-key.pem", "token-key.pem"} {
			key, err := os.ReadFile(filepath.Join(k.all[0].DataDir, name))
			if err == nil {
				err = os.WriteFile(filepath.Join(data, name), key, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "mesh.yaml"), []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	p := k.open(t, filepath.Join(dir, "mesh.yaml"), data, variables...)
	k.all = append(k.all, p)
	return p
}

// open starts a replica on what is on disk.
func (k *pinKV) open(t *testing.T, file, data string, variables ...string) *Plane {
	t.Helper()
	variables = append(variables, "SECRET")
	p, err := New(t.Context(), Options{
		Log: slog.New(slog.DiscardHandler), ClientLog: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(),
		Files: []string{file}, DataDir: data, XDSAddress: "unix:none", Leader: LeaderConsul,
		MeshOptions: policy.Options{LookupEnv: func(name string) (string, bool) {
			for _, v := range variables {
				if v == name {
					return "hunter2", true
				}
			}
			return "", false
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	p.pins.board = k
	if _, err := p.Start(); err != nil {
		t.Fatal(err)
	}
	return p
}

func newPinKV() *pinKV { return &pinKV{texts: make(map[string][]byte)} }

// edit has a replica find another mesh file.
func edit(t *testing.T, p *Plane, file string) *policy.Mesh {
	t.Helper()
	if err := os.WriteFile(p.Files[0], []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	m, err := policy.Load(p.Files, p.MeshOptions)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.adopt(m, p.started); err != nil {
		t.Fatal(err)
	}
	return m
}

var ada = api.Caller{Name: "ada"}

func mustPin(t *testing.T, p *Plane, revision string) {
	t.Helper()
	if said, err := p.Pin(ada, revision); err != nil || !strings.Contains(said, "by all replicas") {
		t.Fatalf("pin: %q, %v", said, err)
	}
}

func holding(p *Plane) string {
	var all []string
	for _, h := range p.meshHolds() {
		all = append(all, h.text)
	}
	_, problems := p.replicaReport()
	return strings.Join(append(all, problems...), "; ")
}

// A pin at one replica is one at all, at those too that have never had the revision; an
// edit waits behind it at each, and a release at another one ends it at all.
func TestAPinIsForAllReplicas(t *testing.T) {
	k := newPinKV()
	a, b := k.begin(t, servedFile("1")), k.begin(t, servedFile("2")) // b has never had the first
	first := a.mesh.Load().Revision
	edit(t, a, servedFile("2"))
	k.tell(t)
	mustPin(t, a, first)
	k.tell(t)
	for _, p := range k.all {
		is := p.Status().Mesh
		if is.Revision != first || is.Pinned == nil || is.Pinned.By != "ada" || is.Pinned.Replica != a.registrations.replica || is.Pinned.Failed != "" {
			t.Errorf("%s serves %+v, pinned %+v", p.registrations.replica, is, is.Pinned)
		}
		if got := holding(p); !strings.Contains(got, "ada has pinned for all replicas, at "+a.registrations.replica) {
			t.Errorf("/readyz of %s: %s", p.registrations.replica, got)
		}
		events, _ := p.Events("", 100)
		if last := events.Events[len(events.Events)-1]; last.Kind != api.MeshPinned || last.Operator != "ada" || last.Revision != first {
			t.Errorf("the last event of %s is %+v", p.registrations.replica, last)
		}
		list, err := p.Revisions()
		if err != nil || !strings.Contains(fmt.Sprint(list.Revisions), first) {
			t.Errorf("%s does not list it: %+v, %v", p.registrations.replica, list, err)
		}
	}
	if files, err := b.Revision(first); err != nil || files.Files[0].Content != servedFile("1") {
		t.Errorf("b shows the revision as %+v, %v", files, err)
	}
	if b.mesh.Load().Version != "1" {
		t.Errorf("b serves version %s", b.mesh.Load().Version)
	}
	third := edit(t, b, servedFile("3"))
	if b.mesh.Load().Revision != first || b.Status().Mesh.Pinned.Behind != third.Revision {
		t.Errorf("an edit of b: it serves %s, pinned %+v", b.mesh.Load().Revision, b.Status().Mesh.Pinned)
	}
	if err := b.ReleasePin(api.Caller{Name: "bob"}, first); err != nil {
		t.Fatal(err)
	}
	k.tell(t)
	for p, version := range map[*Plane]string{a: "2", b: "3"} {
		events, _ := p.Events("", 100)
		last := events.Events[len(events.Events)-1]
		if p.Status().Mesh.Pinned != nil || p.mesh.Load().Version != version || last.Kind != api.MeshReleased || last.Operator != "bob" {
			t.Errorf("after the release %s serves version %s, pinned %+v, and says %+v", p.registrations.replica, p.mesh.Load().Version, p.Status().Mesh.Pinned, last)
		}
		if got := holding(p); got != "" {
			t.Errorf("after the release: %s", got)
		}
	}
}

// What is shared of a revision is its text, and not what its variables came to.
func TestAPinnedTextHasNoValueOfAVariable(t *testing.T) {
	k := newPinKV()
	a := k.begin(t, servedFile("1"))
	k.tell(t)
	mustPin(t, a, a.mesh.Load().Revision)
	files, _, err := unpack(k.texts[k.word.Revision])
	if err != nil || len(files) != 1 || string(files[0].Data) != servedFile("1") || !strings.Contains(servedFile("1"), "${SECRET}") {
		t.Errorf("Consul has %q, %v", files, err)
	}
}

// A replica that starts while a revision is pinned begins with that: what its disk has is
// not served first.
func TestAStartWhileARevisionIsPinned(t *testing.T) {
	k := newPinKV()
	a := k.begin(t, servedFile("1"))
	k.tell(t)
	first := a.mesh.Load().Revision
	mustPin(t, a, first)
	b := k.begin(t, servedFile("2"))
	if b.pins.ready() {
		t.Error("a snapshot is made before it is known what is pinned")
	}
	k.tell(t)
	if !b.pins.ready() || b.mesh.Load().Revision != first {
		t.Errorf("after the first word it serves %s, ready %v", b.mesh.Load().Revision, b.pins.ready())
	}
	// It starts again without Consul: with what is kept.
	k.all, k.away = k.all[:1], "connection refused"
	b.svids = nil // the data directory stays locked by the one before
	reopened := &pinKV{texts: k.texts, away: k.away}
	copied := filepath.Join(t.TempDir(), "data")
	if err := os.CopyFS(copied, os.DirFS(b.DataDir)); err != nil {
		t.Fatal(err)
	}
	private(t, copied)
	c := reopened.open(t, b.Files[0], copied)
	reopened.all = []*Plane{c}
	reopened.tell(t)
	if !c.pins.ready() || c.mesh.Load().Revision != first || c.Status().Mesh.Pinned == nil {
		t.Errorf("without Consul it serves %s, pinned %+v", c.mesh.Load().Revision, c.Status().Mesh.Pinned)
	}
	// And it is released while that one is down.
	k.away = ""
	k.tell(t)
	if err := a.ReleasePin(ada, first); err != nil {
		t.Fatal(err)
	}
	k.all = []*Plane{a, c}
	k.tell(t)
	if c.mesh.Load().Version != "2" || c.Status().Mesh.Pinned != nil {
		t.Errorf("after the release it serves version %s", c.mesh.Load().Version)
	}
}

// private takes rights from a copy, as a data directory must have them.
func private(t *testing.T, dir string) {
	t.Helper()
	err := filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		if info.IsDir() {
			return os.Chmod(path, 0o700)
		}
		return os.Chmod(path, 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Without Consul nothing is pinned or released, and it is said; what was pinned stays.
func TestNothingIsPinnedWithoutConsul(t *testing.T) {
	k := newPinKV()
	a := k.begin(t, servedFile("1"))
	first := a.mesh.Load().Revision
	if _, err := a.Pin(ada, first); err == nil || !strings.Contains(err.Error(), "has not asked Consul yet") {
		t.Errorf("before the first word: %v", err)
	}
	k.tell(t)
	mustPin(t, a, first)
	second := edit(t, a, servedFile("2"))
	k.away = "connection refused"
	k.tell(t)
	for what, err := range map[string]error{"release": a.ReleasePin(ada, first), "pin": func() error { _, err := a.Pin(ada, first); return err }()} {
		if err == nil || !strings.Contains(err.Error(), "nothing has changed: connection refused") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if a.mesh.Load().Revision != first || a.Status().Mesh.Pinned.Behind != second.Revision {
		t.Errorf("it serves %s", a.mesh.Load().Revision)
	}
	// One that is in touch, and whose write fails.
	k.away = ""
	k.tell(t)
	k.away = "Permission denied"
	if err := a.ReleasePin(ada, first); err == nil || !strings.Contains(err.Error(), "could not be written for all replicas") || a.mesh.Load().Revision != first {
		t.Errorf("a release that is not written: %v", err)
	}
}

// A replica that cannot go on with what is pinned says why, and keeps its last good mesh
// file; edits wait there too, and the release ends it.
func TestAPinThatOneReplicaCannotServe(t *testing.T) {
	k := newPinKV()
	a := k.begin(t, strings.Replace(servedFile("1"), "SECRET", "ONLY_A", 1), "ONLY_A")
	b := k.begin(t, servedFile("2"))
	second := b.mesh.Load().Revision
	k.tell(t)
	mustPin(t, a, a.mesh.Load().Revision)
	k.tell(t)
	is := b.Status().Mesh
	if is.Revision != second || is.Pinned == nil || !strings.Contains(is.Pinned.Failed, "host: is empty") {
		t.Fatalf("b serves %+v, pinned %+v", is, is.Pinned)
	}
	if got := holding(b); !strings.Contains(got, "the last good mesh file") || !strings.Contains(got, "cannot be served") || !strings.Contains(got, "ada") {
		t.Errorf("/readyz of b: %s", got)
	}
	edit(t, b, servedFile("3"))
	if b.mesh.Load().Revision != second {
		t.Error("an edit came into force while another revision is pinned")
	}
	if err := b.ReleasePin(ada, is.Pinned.Revision); err != nil {
		t.Fatal(err)
	}
	k.tell(t)
	if b.mesh.Load().Version != "3" || holding(b) != "" || a.Status().Mesh.Pinned != nil {
		t.Errorf("after the release b serves version %s, and holds %q", b.mesh.Load().Version, holding(b))
	}
}

// A text that is not there yet is asked for again.
func TestATextThatIsNotThereIsAskedForAgain(t *testing.T) {
	k := newPinKV()
	a, b := k.begin(t, servedFile("1")), k.begin(t, servedFile("2"))
	k.tell(t)
	k.lost = true
	mustPin(t, a, a.mesh.Load().Revision)
	k.tell(t)
	if got := holding(b); !strings.Contains(got, "cannot be had from Consul yet") || b.mesh.Load().Version != "2" {
		t.Errorf("b serves version %s, and says %s", b.mesh.Load().Version, got)
	}
	if b.followPin(t.Context()) {
		t.Error("it is not tried again")
	}
	k.lost = false
	k.tell(t)
	if b.mesh.Load().Version != "1" || !strings.Contains(holding(b), "has pinned") || strings.Contains(holding(b), "cannot") {
		t.Errorf("b serves version %s, and says %s", b.mesh.Load().Version, holding(b))
	}
}

// Whoever may write keys in Consul makes up no mesh file, pins none, and puts back no word
// that operators have gone on from.
func TestAPinIsBelievedOfReplicasAlone(t *testing.T) {
	k := newPinKV()
	a, b := k.begin(t, servedFile("1")), k.begin(t, servedFile("2"))
	k.tell(t)
	first, second := a.mesh.Load().Revision, b.mesh.Load().Revision
	k.word = &replica.Pin{Epoch: math.MaxUint64, Revision: first, By: "mallory"}
	k.tell(t)
	if got := holding(b); b.mesh.Load().Revision != second || !strings.Contains(got, "no replica of this mesh has signed it") {
		t.Errorf("b serves %s, and says %s", b.mesh.Load().Revision, got)
	}
	mustPin(t, a, first) // in the place of that
	old := k.word
	k.texts[first] = []byte("something else")
	k.tell(t)
	if got := holding(b); b.mesh.Load().Revision != second || !strings.Contains(got, "is not what was pinned") {
		t.Errorf("with another text b serves %s, and says %s", b.mesh.Load().Revision, got)
	}
	forged := *old
	forged.Epoch, forged.Revision = 9, second
	k.word = &forged
	k.tell(t)
	if got := holding(a); a.mesh.Load().Revision != first || !strings.Contains(got, "no replica of this mesh has signed it") {
		t.Errorf("with a forged word a serves %s, and says %s", a.mesh.Load().Revision, got)
	}
	k.word = old
	k.tell(t)
	if err := a.ReleasePin(ada, first); err != nil {
		t.Fatal(err)
	}
	k.tell(t)
	for name, back := range map[string]*replica.Pin{"an old word": old, "none": nil} {
		k.word = back
		k.tell(t)
		if k.word == nil || !k.word.Released || a.Status().Mesh.Pinned != nil {
			t.Errorf("with %s in Consul, a is pinned to %+v, and Consul has %+v", name, a.Status().Mesh.Pinned, k.word)
		}
		k.tell(t)
		if got := holding(b); got != "" {
			t.Errorf("b says %s", got)
		}
	}
}

// A text that Consul does not take is not shared: who keeps the revision serves it, and
// the others say so.
func TestATextThatIsTooLargeIsNotShared(t *testing.T) {
	k := newPinKV()
	var noise strings.Builder
	random := rand.New(rand.NewPCG(1, 2))
	for noise.Len() < 2<<20 {
		fmt.Fprintf(&noise, "# %x%x%x%x\n", random.Uint64(), random.Uint64(), random.Uint64(), random.Uint64())
	}
	a, b := k.begin(t, servedFile("1")+noise.String()), k.begin(t, servedFile("2"))
	k.tell(t)
	said, err := a.Pin(ada, a.mesh.Load().Revision)
	if err != nil || !strings.Contains(said, "too large to be shared") {
		t.Errorf("it is said %q, %v", said, err)
	}
	k.tell(t)
	if got := holding(b); !strings.Contains(got, "too large to be shared") || b.mesh.Load().Version != "2" || a.Status().Mesh.Pinned == nil {
		t.Errorf("b serves version %s, and says %s", b.mesh.Load().Version, got)
	}
	if text := k.texts[k.word.Revision]; text != nil {
		t.Errorf("Consul has %d bytes of it", len(text))
	}
}
