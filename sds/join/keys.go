package join

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
)

const (
	// keysAge is after how long keys are read again, so that one that was
	// withdrawn is not believed for ever; keysPause is the least time between two
	// reads, whoever asks for unknown keys.
	keysAge   = 10 * time.Minute
	keysPause = 10 * time.Second
	keysTime  = 3 * time.Second // of one read
	maxKeys   = 1 << 20         // bytes
)

// keys are the public keys of a JWKS, from a file or a URL.
type keys struct {
	source string
	read   func(ctx context.Context) ([]byte, error)

	mu    sync.Mutex
	set   jose.JSONWebKeySet
	tried time.Time
	good  time.Time
	err   error // of the last read
}

func newKeys(source string) *keys {
	k := &keys{source: source}
	k.read = k.readFile
	if strings.HasPrefix(source, "http://") || strings.HasPrefix(source, "https://") {
		k.read = k.readURL
	}
	return k
}

// get returns the key with the id, for an algorithm.
func (k *keys) get(ctx context.Context, id, algorithm string, now time.Time) (any, error) {
	if id == "" {
		return nil, errors.New("it names no key")
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	key := k.find(id, algorithm)
	if (key == nil || now.Sub(k.good) > keysAge) && now.Sub(k.tried) >= keysPause {
		k.tried = now
		if k.err = k.load(ctx); k.err == nil {
			k.good = now
		}
		key = k.find(id, algorithm)
	}
	switch {
	case key != nil:
		return key, nil
	case k.err != nil:
		return nil, fmt.Errorf("the keys of %s: %w", k.source, k.err)
	default:
		return nil, fmt.Errorf("%s has no key %.100q for %s", k.source, id, algorithm)
	}
}

func (k *keys) find(id, algorithm string) any {
	for _, key := range k.set.Key(id) {
		if key.Valid() && key.IsPublic() && (key.Algorithm == "" || key.Algorithm == algorithm) && (key.Use == "" || key.Use == "sig") {
			return key.Key
		}
	}
	return nil
}

// load reads the keys. What cannot be read leaves those that are known.
func (k *keys) load(ctx context.Context) error {
	data, err := k.read(ctx)
	if err != nil {
		return err
	}
	var set jose.JSONWebKeySet
	if err := json.Unmarshal(data, &set); err != nil {
		return fmt.Errorf("not a JWKS: %w", err)
	}
	if len(set.Keys) == 0 {
		return errors.New("a JWKS without keys")
	}
	k.set = set
	return nil
}

func (k *keys) readFile(context.Context) ([]byte, error) { return os.ReadFile(k.source) }

func (k *keys) readURL(ctx context.Context) ([]byte, error) {
	// Of whoever waits for the lock each has a deadline, and the read is for all.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), keysTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, k.source, http.NoBody)
	if err != nil {
		return nil, err
	}
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close() //nolint:errcheck // read only
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("status %d", resp.StatusCode)
	}
	return io.ReadAll(io.LimitReader(resp.Body, maxKeys))
}
