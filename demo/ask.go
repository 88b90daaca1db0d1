package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"datapunk.dev/controlplane/e2e/run"
)

// ask shows what the commands for operators say of the mesh that runs.
func (d *demo) ask(ctx context.Context) error {
	out, err := d.cli(ctx, 0, "status")
	if err != nil {
		return err
	}
	first, _, _ := strings.Cut(out, "\n")
	if strings.Contains(out, "REJECTED") {
		return fmt.Errorf("status: %s", out)
	}
	d.screen.saw("`controlplane status`: %s", first)
	sentence, err := d.whyOf(ctx, 0)
	if err != nil {
		return err
	}
	d.screen.saw("`controlplane why nexus lake_service`: %s", sentence)

	text, err := os.ReadFile(d.meshFile)
	if err != nil {
		return err
	}
	edit := filepath.Join(d.dir, "edit.yaml")
	if err := run.WriteFile(edit, strings.Replace(string(text), "max_connections: 2048", "max_connections: 4096", 1)); err != nil {
		return err
	}
	out, err = d.cli(ctx, 2, "plan", "-f", edit, "--detailed-exitcode")
	if err != nil {
		return err
	}
	first, _, _ = strings.Cut(out, "\n")
	d.screen.saw("`controlplane plan` of the next edit: %s", first)
	if !strings.Contains(out, `"2048" → "4096"`) || !strings.Contains(first, " 0 listeners drain") {
		return fmt.Errorf("plan says %s", out)
	}
	return nil
}

// whyOf is the sentence in which why ends, of a call of nexus to lake_service.
func (d *demo) whyOf(ctx context.Context, code int, of ...string) (string, error) {
	out, err := d.cli(ctx, code, append([]string{"why", "nexus", "lake_service"}, of...)...)
	if err != nil {
		return "", err
	}
	lines := strings.Split(strings.TrimSpace(strings.ReplaceAll(out, d.dir+string(os.PathSeparator), "")), "\n")
	return lines[len(lines)-1], nil
}

// cli asks the control plane by its command line.
func (d *demo) cli(ctx context.Context, code int, args ...string) (string, error) {
	out, err := d.mesh.CLI(ctx, append(args, "--admin-address", d.mesh.Plane.AdminAddress(), "--data-dir", d.mesh.Plane.DataDir())...)
	if err != nil {
		return "", err
	}
	if out.Code != code {
		return "", fmt.Errorf("controlplane %s: exit code %d: %s%s", args[0], out.Code, out.Stdout, out.Stderr)
	}
	return out.Stdout, nil
}
