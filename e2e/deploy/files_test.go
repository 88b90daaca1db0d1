package deploy

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"

	"datapunk.dev/controlplane/internal/tool"
)

const (
	composeFile   = "deploy/compose/compose.yaml"
	nomadPlaneJob = "deploy/nomad/controlplane.nomad.hcl"
	nomadService  = "deploy/nomad/lake_service.nomad.hcl"
)

// checkFile says what tools/deployfiles finds wrong with a text that stands in
// the place of a file.
func checkFile(t *testing.T, kind, name, text string) string {
	t.Helper()
	// With all that it may refer to.
	dir := filepath.Join(t.TempDir(), "deploy")
	must(t, os.CopyFS(dir, os.DirFS(filepath.Join(tool.Root(), "deploy"))))
	path := filepath.Join(filepath.Dir(dir), name)
	must(t, os.WriteFile(path, []byte(text), 0o600))
	goBinary, err := tool.Find("go")
	must(t, err)
	out, err := tool.Exec(t.Context(), goBinary, nil, "-C", filepath.Join(tool.Root(), "tools/deployfiles"), "run", ".", kind, path)
	must(t, err)
	if (out.Code == 0) != (out.Stdout+out.Stderr == "") {
		t.Fatalf("exit code %d, %s%s", out.Code, out.Stdout, out.Stderr)
	}
	return out.Stderr
}

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(tool.Root(), name))
	must(t, err)
	return string(text)
}

// The compose file and the jobs are what compose and Nomad read: by compose's own
// loader and schema, and by the keys of Nomad's API. A key, a block, a value or a
// file that is none is found.
func TestTheFilesForComposeAndNomadAreValid(t *testing.T) {
	for name, kind := range map[string]string{composeFile: "compose", nomadPlaneJob: "nomad", nomadService: "nomad"} {
		if wrong := checkFile(t, kind, name, read(t, name)); wrong != "" {
			t.Errorf("%s: %s", name, wrong)
		}
	}
	for _, c := range []struct{ name, kind, old, new, want string }{
		{composeFile, "compose", "init: true", "initt: true", "initt"},
		{composeFile, "compose", "join: {condition: service_completed_successfully}", "nobody: {condition: service_started}", "nobody"},
		{composeFile, "compose", "./prometheus.yml:", "./elsewhere.yml:", "elsewhere.yml"},
		{composeFile, "compose", "stop_grace_period: 60s", "stop_grace_period: long", "stop_grace_period"},
		{nomadService, "nomad", "leader = true", "leading = true", "Task has no key leading"},
		{nomadService, "nomad", "identity {", "identify {", "Task has no block identify"},
		{nomadService, "nomad", `hook    = "prestart"`, "", "TaskLifecycle wants the key hook"},
		{nomadService, "nomad", `kill_timeout = "60s"`, `kill_timeout = "60"`, "kill_timeout"},
		{nomadService, "nomad", "count = 2", "count = [2]", "count is a tuple"},
		{nomadPlaneJob, "nomad", `mode     = "delay"`, `mode     = "delay`, "nomad.hcl"},
	} {
		text := read(t, c.name)
		if !strings.Contains(text, c.old) {
			t.Errorf("%s has no %q", c.name, c.old)
			continue
		}
		contains(t, c.name+" with "+c.new, checkFile(t, c.kind, c.name, strings.Replace(text, c.old, c.new, 1)), c.want)
	}
}

// What the files have the control plane and the sidecars started with, these
// know; and the mesh files in them are valid.
func TestTheFilesForComposeAndNomadSayWhatTheBinaryKnows(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "controlplane")
	goBinary, err := tool.Find("go")
	must(t, err)
	out, err := tool.Exec(t.Context(), goBinary, nil, "build", "-C", tool.Root(), "-o", binary, "./cmd/controlplane")
	must(t, err)
	if out.Code != 0 {
		t.Fatal(out.Stderr)
	}
	var compose struct {
		Services map[string]struct {
			Image       string
			Command     []string
			Environment map[string]string
		}
	}
	must(t, yaml.Unmarshal([]byte(read(t, composeFile)), &compose))
	var commands [][]string
	variables := regexp.MustCompile(`CONTROLPLANE_SIDECAR_([A-Z_]+)`)
	for _, s := range compose.Services {
		switch {
		case strings.HasPrefix(s.Image, "controlplane:"):
			commands = append(commands, s.Command)
		case strings.HasPrefix(s.Image, "controlplane-sidecar:"):
			command := []string{"sidecar"}
			for name := range s.Environment {
				m := variables.FindStringSubmatch(name)
				if m == nil {
					t.Fatalf("%s is no setting of a sidecar", name)
				}
				command = append(command, "--"+strings.ToLower(strings.ReplaceAll(m[1], "_", "-"))+"=1")
			}
			commands = append(commands, command)
		}
	}
	for _, name := range []string{nomadPlaneJob, nomadService} {
		list := regexp.MustCompile(`(?s)args = \[\s*"(serve|sidecar)".*?\]\n`).FindString(read(t, name))
		var args []string
		for _, m := range regexp.MustCompile(`"([^"]*)"`).FindAllStringSubmatch(list, -1) {
			args = append(args, regexp.MustCompile(`\$\{[^}]*\}`).ReplaceAllString(m[1], "1"))
		}
		commands = append(commands, args)
	}
	if len(commands) != 6 {
		t.Fatalf("%d commands: %q", len(commands), commands)
	}
	for _, command := range commands {
		out, err := tool.Exec(t.Context(), binary, nil, append(command, "--help")...)
		must(t, err)
		if out.Code != 0 || !strings.Contains(out.Stdout, "Usage:") {
			t.Errorf("controlplane %s: exit code %d\n%s", strings.Join(command, " "), out.Code, out.Stderr)
		}
	}

	_, job, _ := strings.Cut(read(t, nomadPlaneJob), "<<-EOT\n")
	job, _, _ = strings.Cut(job, "EOT\n")
	for name, text := range map[string]string{"compose": read(t, "deploy/compose/config/mesh.yaml"), "Nomad": job} {
		path := filepath.Join(t.TempDir(), "mesh.yaml")
		must(t, os.WriteFile(path, []byte(text), 0o600))
		out, err := tool.Exec(t.Context(), binary, nil, "validate", "-f", path)
		must(t, err)
		if got := out.Stdout + out.Stderr; got != "the mesh file is valid\n" {
			t.Errorf("the mesh file for %s: %s", name, got)
		}
	}
}

// Prometheus takes its file, and loads the alerts with it.
func TestPrometheusTakesItsFile(t *testing.T) {
	promtool, err := tool.Find("promtool")
	must(t, err)
	// As the compose file mounts them.
	dir := t.TempDir()
	must(t, os.CopyFS(filepath.Join(dir, "rules"), os.DirFS(filepath.Join(tool.Root(), "deploy/prometheus"))))
	config := filepath.Join(dir, "prometheus.yml")
	must(t, os.WriteFile(config, []byte(read(t, "deploy/compose/prometheus.yml")), 0o600))
	out, err := tool.Exec(t.Context(), promtool, nil, "check", "config", config)
	must(t, err)
	if out.Code != 0 || !strings.Contains(out.Stdout, "registration.rules.yaml") {
		t.Error(out.Stdout + out.Stderr)
	}
	for _, mount := range []string{`./prometheus.yml:/etc/prometheus/prometheus.yml:ro`, `../prometheus:/etc/prometheus/rules:ro`} {
		if !strings.Contains(read(t, composeFile), mount) {
			t.Errorf("the compose file does not mount %s", mount)
		}
	}
}
