// Package join is who may become a node of the mesh: join tokens, which operators
// hand out and which are kept in the data directory, and the workload identities
// of Nomad. Either is exchanged for the token of one node.
package join

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"datapunk.dev/controlplane/atomicfile"
)

const (
	// MaxTTL is the longest life of a join token.
	MaxTTL = 30 * 24 * time.Hour
	// MaxUses is how often one may be used at most: each use is kept, and the file
	// of a token is written whole.
	MaxUses = 1000
	// maxTokens bounds those that are kept.
	maxTokens = 1000
	// keepExpired is how long one that has expired is still listed.
	keepExpired = 7 * 24 * time.Hour

	directory   = "join"
	prefix      = "join"
	idBytes     = 6
	secretBytes = 32
	maxAttempt  = 64
	// lockTime bounds the wait for another process that changes a token.
	lockTime = 5 * time.Second
)

// Errors of a token that is known: whoever shows one may be told.
var (
	ErrExpired = errors.New("the join token has expired")
	ErrUsedUp  = errors.New("the join token has no use left")
	ErrService = errors.New("the join token is for another service")
	// ErrUnknown is a join token that is none, was revoked, or is forgotten.
	ErrUnknown = errors.New("the join token is not known")
)

// Token is what is known of a join token; the secret of it is not.
type Token struct {
	ID      string        `json:"id"`
	Hash    string        `json:"hash"`              // SHA-256 of the secret: it has 256 bits, so nobody can guess it from this
	Service string        `json:"service,omitempty"` // empty: any
	Uses    int           `json:"uses"`
	NodeTTL time.Duration `json:"node_ttl"` // life of the nodes' tokens
	Created time.Time     `json:"created"`
	Expires time.Time     `json:"expires"`
	Used    []Use         `json:"used,omitempty"`
}

// Use is one exchange of a join token.
type Use struct {
	Service string    `json:"service"`
	Node    string    `json:"node"`
	At      time.Time `json:"at"`
	Attempt string    `json:"attempt"` // SHA-256 of the machine's secret
}

// Left is how many uses are left.
func (t *Token) Left() int { return t.Uses - len(t.Used) }

// Tokens are the join tokens of a data directory. Several processes may use one:
// each change is made under a lock, and a token is read again for each.
type Tokens struct {
	dir string
	now func() time.Time
	mu  sync.Mutex
}

// NewTokens returns the join tokens of a data directory, which need not have any.
func NewTokens(dataDir string) *Tokens {
	return &Tokens{dir: filepath.Join(dataDir, directory), now: wallClock}
}

// wallClock is the time of day without Go's monotonic reading, which stands
// still while a machine is suspended.
func wallClock() time.Time { return time.Now().Round(0) }

// Create makes a join token for the service, empty for any, and returns what
// the machines are to show.
func (t *Tokens) Create(service string, uses int, ttl, nodeTTL time.Duration) (raw string, kept *Token, err error) {
	switch {
	case uses < 1 || uses > MaxUses:
		return "", nil, fmt.Errorf("a join token cannot have %d uses: want 1 to %d", uses, MaxUses)
	case ttl < time.Second || ttl > MaxTTL:
		return "", nil, fmt.Errorf("a join token cannot live %s: want 1s to %s", ttl, MaxTTL)
	}
	random := make([]byte, idBytes+secretBytes)
	if _, err := rand.Read(random); err != nil {
		return "", nil, err
	}
	secret := base64.RawURLEncoding.EncodeToString(random[idBytes:])
	now := t.now().UTC().Truncate(time.Second)
	kept = &Token{
		ID: hex.EncodeToString(random[:idBytes]), Hash: digest(secret), Service: service, Uses: uses, NodeTTL: nodeTTL,
		Created: now, Expires: now.Add(ttl),
	}
	err = t.locked(func() error {
		all, err := t.read()
		if err != nil {
			return err
		}
		n := len(all)
		for _, old := range all {
			if now.Sub(old.Expires) < keepExpired {
				continue
			}
			if err := t.remove(old.ID); err != nil {
				return err
			}
			n--
		}
		if n >= maxTokens {
			return fmt.Errorf("there are %d join tokens already: revoke some", n)
		}
		return t.write(kept)
	})
	if err != nil {
		return "", nil, err
	}
	return strings.Join([]string{prefix, kept.ID, secret}, "."), kept, nil
}

// List returns all that are known, the oldest first.
func (t *Tokens) List() ([]*Token, error) {
	all, err := t.read()
	slices.SortFunc(all, func(a, b *Token) int {
		if c := a.Created.Compare(b.Created); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	return all, err
}

// Revoke ends a join token. Nodes that have joined by it stay.
func (t *Tokens) Revoke(id string) error {
	if !validID(id) {
		return fmt.Errorf("%q is not the id of a join token", id)
	}
	return t.locked(func() error {
		err := t.remove(id)
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("there is no join token %s", id)
		}
		return err
	})
}

// Use counts one use of a join token by a node of the service, and returns the
// token. The count is on disk before it does. The same attempt of the same node
// counts once.
func (t *Tokens) Use(raw, service, node, attempt string) (*Token, error) {
	parts := strings.Split(raw, ".")
	if len(parts) != 3 || parts[0] != prefix || !validID(parts[1]) {
		return nil, ErrUnknown
	}
	if attempt == "" || len(attempt) > maxAttempt {
		return nil, fmt.Errorf("want an attempt of 1 to %d bytes", maxAttempt)
	}
	// Looked at before the lock is taken: who has no secret holds nobody up.
	if _, err := t.look(parts[1], parts[2]); err != nil {
		return nil, err
	}
	var used *Token
	err := t.locked(func() error {
		k, err := t.look(parts[1], parts[2])
		if err != nil {
			return err
		}
		now := t.now().UTC()
		use := Use{Service: service, Node: node, At: now.Truncate(time.Second), Attempt: digest(attempt)}
		switch {
		case !now.Before(k.Expires):
			return ErrExpired
		case k.Service != "" && k.Service != service:
			return ErrService
		case slices.ContainsFunc(k.Used, func(u Use) bool {
			return u.Service == service && u.Node == node && u.Attempt == use.Attempt
		}):
			used = k
			return nil
		case k.Left() < 1:
			return ErrUsedUp
		}
		k.Used = append(k.Used, use)
		if err := t.write(k); err != nil {
			return fmt.Errorf("count the use of join token %s: %w", k.ID, err)
		}
		used = k
		return nil
	})
	return used, err
}

// look returns the token with the id, if the secret is its own.
func (t *Tokens) look(id, secret string) (*Token, error) {
	k, err := readToken(t.path(id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrUnknown
	}
	if err != nil {
		return nil, err
	}
	if subtle.ConstantTimeCompare([]byte(k.Hash), []byte(digest(secret))) != 1 {
		return nil, ErrUnknown
	}
	return k, nil
}

func digest(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

func validID(id string) bool {
	raw, err := hex.DecodeString(id)
	return err == nil && len(raw) == idBytes && id == strings.ToLower(id)
}

func (t *Tokens) path(id string) string { return filepath.Join(t.dir, id+".json") }

func (t *Tokens) write(k *Token) error {
	data, err := json.Marshal(k)
	if err != nil {
		return err
	}
	return atomicfile.Write(t.path(k.ID), append(data, '\n'), 0o600)
}

func (t *Tokens) remove(id string) error { return os.Remove(t.path(id)) }

// read returns all tokens. One that cannot be read is an error, which names its file.
func (t *Tokens) read() ([]*Token, error) {
	entries, err := os.ReadDir(t.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var all []*Token
	var errs []error
	for _, e := range entries {
		id, ok := strings.CutSuffix(e.Name(), ".json")
		if !ok || !validID(id) {
			continue // what atomicfile left, or somebody else's
		}
		k, err := readToken(t.path(id))
		switch {
		case errors.Is(err, fs.ErrNotExist): // revoked meanwhile
		case err != nil:
			errs = append(errs, err)
		default:
			all = append(all, k)
		}
	}
	return all, errors.Join(errs...)
}

func readToken(path string) (*Token, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	k := new(Token)
	if err := json.Unmarshal(data, k); err != nil {
		return nil, fmt.Errorf("%s is not a join token: %w", path, err)
	}
	if k.ID+".json" != filepath.Base(path) {
		return nil, fmt.Errorf("%s is the join token %q", path, k.ID)
	}
	return k, nil
}

// locked makes one change at a time, in this process and among several.
func (t *Tokens) locked(change func() error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := os.MkdirAll(t.dir, 0o700); err != nil {
		return err
	}
	d, err := os.Open(t.dir)
	if err != nil {
		return err
	}
	defer d.Close() //nolint:errcheck // closing releases the lock
	for deadline := time.Now().Add(lockTime); ; time.Sleep(10 * time.Millisecond) {
		err := syscall.Flock(int(d.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return change()
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			return fmt.Errorf("lock %s: %w", t.dir, err)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s is locked by another process for %s", t.dir, lockTime)
		}
	}
}
