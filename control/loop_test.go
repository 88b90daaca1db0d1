package control

import (
	"bytes"
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/translate"
	"datapunk.dev/controlplane/watch"
	"datapunk.dev/controlplane/xds"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func mesh(t *testing.T, text string) *policy.Mesh {
	t.Helper()
	m, err := policy.Parse([]policy.File{{Name: "mesh.yaml", Data: []byte(text)}}, policy.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

const plain = "mesh: {name: datapunk, security: {mtls: {enabled: false}, authorization: {enabled: false}}}"

func service(name string, port uint16) *watch.Service {
	return &watch.Service{Name: name, Instances: []*watch.Instance{{
		ID: name + "-1", Address: netip.MustParseAddr("127.0.0.1"), Port: port, MeshPort: port + 1, Weight: 1,
	}}}
}

// answered is a fleet that has answered everything.
func answered(ctx context.Context) <-chan struct{} { return new(fleet).acked(ctx) }

// run runs something until the test ends.
func run(t *testing.T, f func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- f(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// collect runs a loop in the bubble and returns its snapshots.
func collect(t *testing.T, log *slog.Logger) (*Loop, *[]*translate.Snapshot) {
	t.Helper()
	var got []*translate.Snapshot
	l := NewLoop(log, func(s *translate.Snapshot, _ xds.Snapshot) { got = append(got, s) }, answered)
	run(t, l.Run)
	return l, &got
}

func TestNothingIsPublishedBeforeAMeshAndACatalog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, got := collect(t, slog.New(slog.DiscardHandler))
		l.SetMesh(mesh(t, plain))
		l.SetFleet(resource.NewFleet(resource.Profile{Service: "web"}))
		synctest.Wait()
		if len(*got) != 0 || l.Status().Snapshot != nil {
			t.Fatal("published without a catalog: to an Envoy that is a deletion of everything")
		}
		l.SetCatalog(watch.NewCatalog())
		synctest.Wait()
		if len(*got) != 1 {
			t.Fatalf("%d snapshots, want 1", len(*got))
		}
		if l.Status().Snapshot != (*got)[0] {
			t.Error("the status is not of the snapshot that was published")
		}
	})
}

// Catalogs that come while a snapshot is made are one, and what each changed
// is in it: a reader that skips a catalog must still see its names.
func TestSkippedCatalogsUniteTheirChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, got := collect(t, slog.New(slog.DiscardHandler))
		first := watch.NewCatalog().Update([]*watch.Service{service("a", 1000), service("b", 2000)}, nil)
		l.SetMesh(mesh(t, plain))
		l.SetCatalog(first)
		synctest.Wait()

		second := first.Update([]*watch.Service{service("a", 1010)}, nil)
		third := second.Update([]*watch.Service{service("b", 2010)}, nil)
		l.SetCatalog(second)
		l.SetCatalog(third)
		synctest.Wait()

		last := (*got)[len(*got)-1].Input.Catalog
		before := (*got)[len(*got)-2].Input.Catalog // two if both came at once, else three
		names, known := last.ChangedSince(before)
		if !known {
			t.Fatal("the change is not known, and all would be made again")
		}
		if !slices.Contains(names, "b") {
			t.Errorf("changed %v, want b in it", names)
		}
		if len(*got) == 2 {
			if !slices.Contains(names, "a") {
				t.Errorf("changed %v, want a in it, of the catalog that was skipped", names)
			}
		}
	})
}

// A wake may come for what an earlier one has taken already.
func TestNothingIsMadeTwiceOfTheSameInput(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, got := collect(t, slog.New(slog.DiscardHandler))
		l.SetMesh(mesh(t, plain))
		l.SetCatalog(watch.NewCatalog())
		synctest.Wait()
		builds := l.Status().Builds
		l.wake <- struct{}{}
		synctest.Wait()
		if l.Status().Builds != builds || uint64(len(*got)) != builds {
			t.Errorf("%d builds and %d snapshots, want %d", l.Status().Builds, len(*got), builds)
		}
	})
}

// What is found is said once, not with every snapshot that finds it again.
func TestFindingsAreLoggedWhenTheyAreNew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		l, _ := collect(t, slog.New(slog.NewTextHandler(&log, nil)))
		named := "mesh: {name: datapunk, services: {lost: {}}, security: {mtls: {enabled: false}, authorization: {enabled: false}}}"
		l.SetMesh(mesh(t, named))
		catalog := watch.NewCatalog()
		for i := range uint16(3) {
			catalog = catalog.Update([]*watch.Service{service("a", 1000+10*i)}, nil)
			l.SetCatalog(catalog)
			synctest.Wait()
		}
		if n := strings.Count(log.String(), "the catalog has no service lost"); n != 1 {
			t.Errorf("said %d times:\n%s", n, log.String())
		}
		l.SetMesh(mesh(t, strings.Replace(named, "lost", "other", 1)))
		synctest.Wait()
		if n := strings.Count(log.String(), "the catalog has no service other"); n != 1 {
			t.Errorf("said %d times:\n%s", n, log.String())
		}
	})
}

// A catalog that was taken is the base of the next one.
func TestEachSnapshotKnowsWhatChangedSinceTheLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, got := collect(t, slog.New(slog.DiscardHandler))
		l.SetMesh(mesh(t, plain))
		catalog := watch.NewCatalog()
		for i := range uint16(5) {
			catalog = catalog.Update([]*watch.Service{service("a", 1000+10*i)}, nil)
			l.SetCatalog(catalog)
			synctest.Wait()
		}
		for i := 1; i < len(*got); i++ {
			names, known := (*got)[i].Input.Catalog.ChangedSince((*got)[i-1].Input.Catalog)
			if !known || len(names) != 1 {
				t.Errorf("snapshot %d: changed %v, known %v, want a alone", i, names, known)
			}
		}
	})
}

func TestAcceptKeepsWhatCannotGoOnOut(t *testing.T) {
	secure := mesh(t, `mesh: {name: datapunk}`)
	other := mesh(t, `mesh: {name: datapunk, security: {mtls: {trust_domain: elsewhere}}}`)
	for _, test := range []struct {
		name        string
		mesh        *policy.Mesh
		trustDomain string
		plaintext   bool
		ok          bool
	}{
		{"mTLS over TLS", secure, "datapunk", false, true},
		{"mTLS over plaintext: no key may leave", secure, "", true, false},
		{"no mTLS over plaintext", mesh(t, plain), "", true, true},
		{"another trust domain than the authority's", other, "datapunk", false, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			if err := accept(test.mesh, test.trustDomain, test.plaintext); (err == nil) != test.ok {
				t.Errorf("got %v", err)
			}
		})
	}
}

// Who wonders whether the loop still turns can ask it, before it has anything to
// do and while it works; it says nothing once it has ended.
func TestTheLoopAnswersThatItTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := NewLoop(slog.New(slog.DiscardHandler), func(*translate.Snapshot, xds.Snapshot) {}, nil)
		ctx, cancel := context.WithCancel(t.Context())
		go func() { _ = l.Run(ctx) }()
		if err := l.Turns(t.Context()); err != nil {
			t.Error(err)
		}
		cancel()
		synctest.Wait()
		short, stop := context.WithTimeout(t.Context(), time.Second)
		defer stop()
		if err := l.Turns(short); err == nil {
			t.Error("a loop that has ended says that it turns")
		}
	})
}
