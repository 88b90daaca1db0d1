package consul

import (
	"fmt"
	"os"
	"strings"
	"sync"
)

// token is the ACL token, from a file if there is one.
type token struct {
	fixed, file string

	mu    sync.Mutex
	info  os.FileInfo
	value string
}

// read returns the token; the file is read again when it has changed. The
// error never holds any of its contents.
func (t *token) read() (string, error) {
	if t.file == "" {
		return t.fixed, nil
	}
	info, err := os.Stat(t.file)
	if err != nil {
		return "", fmt.Errorf("token file: %w", err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.info != nil && os.SameFile(t.info, info) && t.info.ModTime().Equal(info.ModTime()) && t.info.Size() == info.Size() {
		return t.value, nil
	}
	data, err := os.ReadFile(t.file)
	if err != nil {
		return "", fmt.Errorf("token file: %w", err)
	}
	value := strings.TrimSpace(string(data))
	if value == "" || strings.ContainsFunc(value, notInToken) {
		return "", fmt.Errorf("token file %s: no token in it", t.file)
	}
	t.info, t.value = info, value
	return value, nil
}

func notInToken(r rune) bool { return r <= ' ' || r > '~' }
