package tool

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// validateTime is how long Envoy may take to read a bootstrap.
const validateTime = time.Minute

// EnvoyAccepts returns nil if Envoy constructs everything in a bootstrap, YAML
// or JSON, and warns of nothing. Else the error is what Envoy says.
func EnvoyAccepts(ctx context.Context, bootstrap []byte) error {
	path, err := Find("envoy")
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "validate-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	file := filepath.Join(dir, "bootstrap.yaml")
	if err := os.WriteFile(file, bootstrap, 0o600); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, validateTime)
	defer cancel()
	out, err := Exec(ctx, path, nil, "--mode", "validate", "-l", "warning", "-c", file)
	if err != nil {
		return err
	}
	if said := strings.TrimSpace(out.Stdout + out.Stderr); out.Code != 0 || said != "configuration '"+file+"' OK" {
		return fmt.Errorf("envoy --mode validate: exit code %d:\n%s", out.Code, said)
	}
	return nil
}
