package join

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

const day = 24 * time.Hour

func create(t *testing.T, tokens *Tokens, service string, uses int) (raw, id string) {
	t.Helper()
	raw, kept, err := tokens.Create(service, uses, time.Hour, day)
	if err != nil {
		t.Fatal(err)
	}
	return raw, kept.ID
}

func TestAJoinTokenIsForItsServiceAndItsUses(t *testing.T) {
	tokens := NewTokens(t.TempDir())
	raw, _ := create(t, tokens, "web", 2)
	for _, tt := range []struct {
		service, node, attempt string
		want                   error
	}{
		{"lake", "lake-1", "a", ErrService}, // which is no use
		{"web", "web-1", "a", nil},
		{"web", "web-1", "a", nil}, // the answer was lost: the same attempt
		{"web", "web-2", "b", nil},
		{"web", "web-1", "c", ErrUsedUp}, // another attempt of the same node
		{"web", "web-3", "a", ErrUsedUp}, // the attempt of another node
		{"web", "web-2", "b", nil},
	} {
		if _, err := tokens.Use(raw, tt.service, tt.node, tt.attempt); !errors.Is(err, tt.want) {
			t.Errorf("%+v: %v", tt, err)
		}
	}
	anything, _ := create(t, tokens, "", 2)
	for _, service := range []string{"web", "lake"} {
		if _, err := tokens.Use(anything, service, service+"-1", "a"); err != nil {
			t.Errorf("%s: %v", service, err)
		}
	}
}

// TestUsesAreCountedOnDisk: by whichever process, and also after a restart.
func TestUsesAreCountedOnDisk(t *testing.T) {
	dir := t.TempDir()
	raw, _ := create(t, NewTokens(dir), "web", 5)
	var joined atomic.Int64
	var all sync.WaitGroup
	for process := range 4 {
		tokens := NewTokens(dir) // as another process has it
		for n := range 5 {
			all.Go(func() {
				node := fmt.Sprintf("web-%d-%d", process, n)
				switch _, err := tokens.Use(raw, "web", node, node); {
				case err == nil:
					joined.Add(1)
				case !errors.Is(err, ErrUsedUp):
					t.Error(err)
				}
			})
		}
	}
	all.Wait()
	if n := joined.Load(); n != 5 {
		t.Errorf("%d have joined by 5 uses", n)
	}
	list, err := NewTokens(dir).List()
	if err != nil || len(list) != 1 || list[0].Left() != 0 || len(list[0].Used) != 5 {
		t.Errorf("%+v, %v", list, err)
	}
}

func TestAJoinTokenEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tokens := NewTokens(t.TempDir())
		raw, id := create(t, tokens, "web", 3)
		time.Sleep(time.Hour - time.Nanosecond)
		if _, err := tokens.Use(raw, "web", "web-1", "a"); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Nanosecond)
		for _, attempt := range []string{"a", "b"} { // the same again too
			if _, err := tokens.Use(raw, "web", "web-1", attempt); !errors.Is(err, ErrExpired) {
				t.Errorf("after its life: %v", err)
			}
		}
		if list, err := tokens.List(); err != nil || len(list) != 1 || list[0].ID != id {
			t.Errorf("it is not listed any more: %v, %v", list, err)
		}
		time.Sleep(8 * day)
		create(t, tokens, "web", 1)
		if list, err := tokens.List(); err != nil || len(list) != 1 || list[0].ID == id {
			t.Errorf("it is never forgotten: %v, %v", list, err)
		}
	})
}

func TestAJoinTokenThatIsRevokedIsNotKnown(t *testing.T) {
	tokens := NewTokens(t.TempDir())
	raw, id := create(t, tokens, "web", 3)
	for _, bad := range []string{"", "../" + id, strings.ToUpper(id) + "00", "0000000000ff"} {
		if err := tokens.Revoke(bad); err == nil {
			t.Errorf("%q was revoked", bad)
		}
	}
	if err := tokens.Revoke(id); err != nil {
		t.Fatal(err)
	}
	if _, err := tokens.Use(raw, "web", "web-1", "a"); !errors.Is(err, ErrUnknown) {
		t.Error(err)
	}
}

func TestHostileJoinTokens(t *testing.T) {
	dir := t.TempDir()
	tokens := NewTokens(dir)
	raw, id := create(t, tokens, "", 3)
	other, _ := create(t, tokens, "", 3)
	secret := raw[strings.LastIndexByte(raw, '.')+1:]
	otherSecret := other[strings.LastIndexByte(other, '.')+1:]
	data, err := os.ReadFile(filepath.Join(dir, "join", id+".json"))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(data), secret) {
		t.Error("the secret is on disk")
	}
	for name, hostile := range map[string]string{
		"empty": "", "no parts": "join", "another's secret": "join." + id + "." + otherSecret, "no secret": "join." + id + ".",
		"its hash": "join." + id + "." + digest(secret), "another prefix": "x." + id + "." + secret, "a path": "join.../../ca." + secret,
		"upper case": "join." + strings.ToUpper(id) + "." + secret, "longer": raw + "A", "four parts": raw + ".", "a blank": raw + " ",
	} {
		if name == "upper case" && strings.ToUpper(id) == id {
			continue // an id without a letter
		}
		if _, err := tokens.Use(hostile, "web", "web-1", "a"); !errors.Is(err, ErrUnknown) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, attempt := range []string{"", strings.Repeat("a", 65)} {
		if _, err := tokens.Use(raw, "web", "web-1", attempt); err == nil {
			t.Errorf("an attempt of %d bytes", len(attempt))
		}
	}
}

func TestJoinTokensThatAreNotMade(t *testing.T) {
	tokens := NewTokens(t.TempDir())
	for _, tt := range []struct {
		uses int
		ttl  time.Duration
	}{{0, time.Hour}, {-1, time.Hour}, {MaxUses + 1, time.Hour}, {1, 0}, {1, MaxTTL + time.Second}} {
		if _, _, err := tokens.Create("web", tt.uses, tt.ttl, day); err == nil {
			t.Errorf("%+v was made", tt)
		}
	}
}

// TestAUseThatCannotBeCountedIsNone: a disk that is full must not make one use many.
func TestAUseThatCannotBeCountedIsNone(t *testing.T) {
	dir := t.TempDir()
	tokens := NewTokens(dir)
	raw, id := create(t, tokens, "web", 1)
	path := filepath.Join(dir, "join", id+".json")
	if err := os.WriteFile(path, []byte(`{"id": "`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := tokens.Use(raw, "web", "web-1", "a"); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("a torn file: %v", err)
	}
	if _, err := tokens.List(); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("the list: %v", err)
	}
}
