package sidecar

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"datapunk.dev/controlplane/atomicfile"
	"datapunk.dev/controlplane/sidecar/api"
)

// The files of a state directory.
const (
	stateFile     = "sidecar.json"
	tokenFile     = "token.yaml"
	caFile        = "ca.pem"
	bootstrapFile = "envoy.yaml"
	portsFile     = "ports.env"
	lockFile      = "lock"
)

// state is what a sidecar keeps, so that the next one on the machine is the
// same proxy, also while no control plane answers.
type state struct {
	Service string `json:"service"`
	Node    string `json:"node"`
	Attempt string `json:"attempt"` // see [api.JoinRequest]
	Ports   Ports  `json:"ports"`
	// Asked is what the kept bootstrap was made for.
	Asked *api.BootstrapRequest `json:"asked,omitempty"`

	dir string
}

// openState reads what is kept in the directory, and makes it. While it is open
// no other sidecar can open it.
func openState(dir, service string) (s *state, unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, nil, fmt.Errorf("state directory: %w", err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return nil, nil, fmt.Errorf("state directory: %w", err)
	}
	if mode := info.Mode().Perm(); mode&0o022 != 0 {
		return nil, nil, fmt.Errorf("state directory %s can be written by others (mode %04o): chmod go-w %[1]s", dir, mode)
	}
	lock, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, nil, fmt.Errorf("state directory: %w", err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = lock.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, nil, fmt.Errorf("another sidecar uses the state directory %s: a second one on a machine needs one of its own (--state-dir)", dir)
		}
		return nil, nil, fmt.Errorf("lock state directory %s: %w", dir, err)
	}
	defer func() {
		if err != nil {
			_ = lock.Close()
		}
	}()
	s = &state{dir: dir}
	data, err := os.ReadFile(s.path(stateFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, nil, fmt.Errorf("state directory: %w", err)
	default:
		if err := json.Unmarshal(data, s); err != nil {
			return nil, nil, fmt.Errorf("%s is not what a sidecar wrote (%w): remove it, and the machine joins as a new node", s.path(stateFile), err)
		}
	}
	if s.Service != "" && service != "" && s.Service != service {
		return nil, nil, fmt.Errorf("the state directory %s is that of a sidecar of %s, not of %s", dir, s.Service, service)
	}
	if s.Attempt == "" {
		if s.Attempt, err = randomHex(16); err != nil {
			return nil, nil, err
		}
	}
	return s, func() { _ = lock.Close() }, nil
}

func (s *state) path(name string) string { return filepath.Join(s.dir, name) }

func (s *state) save() error {
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	if err := atomicfile.Write(s.path(stateFile), append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("state directory: %w", err)
	}
	return nil
}

func randomHex(n int) (string, error) {
	b := make([]byte, n)
	if _, err := rand.Read(b); err != nil {
		return "", err
	}
	return hex.EncodeToString(b), nil
}

// newNode names a node after its service and its machine, and makes the name
// unique: machines are cloned.
func newNode(service string) (string, error) {
	host, err := os.Hostname()
	if err != nil {
		return "", err
	}
	host, _, _ = strings.Cut(host, ".")
	if len(host) > 64 {
		host = host[:64]
	}
	unique, err := randomHex(3)
	if err != nil {
		return "", err
	}
	return service + "-" + host + "-" + unique, nil
}
