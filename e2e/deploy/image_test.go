package deploy

import (
	"archive/tar"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"datapunk.dev/controlplane/internal/tool"
)

// image is what is read of an image of the OCI's layout.
type image struct {
	t   testing.TB
	dir string // of the layout
}

type descriptor struct {
	Digest   string
	Platform struct{ Architecture string }
}

func openImage(t testing.TB, archive string) *image {
	i := &image{t: t, dir: t.TempDir()}
	if out, err := exec.CommandContext(t.Context(), "tar", "-xf", archive, "-C", i.dir).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return i
}

func (i *image) json(path string, into any) {
	i.t.Helper()
	data, err := os.ReadFile(filepath.Join(i.dir, path))
	if err == nil {
		err = json.Unmarshal(data, into)
	}
	if err != nil {
		i.t.Fatal(err)
	}
}

func blob(d descriptor) string {
	return filepath.Join("blobs", strings.Replace(d.Digest, ":", "/", 1))
}

// config is how a container of the image is run.
type config struct {
	User                 string
	Env, Entrypoint, Cmd []string
	WorkingDir           string
}

// unpack makes the root of this machine's architecture, with its owners, as a
// container runtime does.
func (i *image) unpack(root string) config {
	i.t.Helper()
	var top, platforms struct{ Manifests []descriptor }
	i.json("index.json", &top)
	i.json(blob(top.Manifests[0]), &platforms)
	at := slices.IndexFunc(platforms.Manifests, func(d descriptor) bool { return d.Platform.Architecture == runtime.GOARCH })
	if at < 0 {
		i.t.Fatalf("no image for %s in %+v", runtime.GOARCH, platforms)
	}
	var manifest struct {
		Config descriptor
		Layers []descriptor
	}
	i.json(blob(platforms.Manifests[at]), &manifest)
	for _, layer := range manifest.Layers {
		if err := unpackLayer(filepath.Join(i.dir, blob(layer)), root); err != nil {
			i.t.Fatal(err)
		}
	}
	var c struct{ Config config }
	i.json(blob(manifest.Config), &c)
	return c.Config
}

func unpackLayer(path, root string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // read only
	z, err := gzip.NewReader(f)
	if err != nil {
		return err
	}
	for t := tar.NewReader(z); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		to := filepath.Join(root, h.Name)
		if h.Typeflag == tar.TypeDir {
			err = os.Mkdir(to, 0o755)
		} else {
			var data []byte
			if data, err = io.ReadAll(t); err == nil {
				err = os.WriteFile(to, data, 0o600)
			}
		}
		if err != nil {
			return err
		}
		if err := errors.Join(os.Lchown(to, h.Uid, h.Gid), os.Chmod(to, h.FileInfo().Mode())); err != nil {
			return err
		}
	}
}

// The image that `make release` makes, with no container tool, runs: its root
// alone, as its own user, without a network but loopback, it serves until it is
// told to end. It is what the Dockerfile says.
func TestTheImageRuns(t *testing.T) {
	root := t.TempDir()
	must(t, os.Chmod(root, 0o755))
	c := openImage(t, file(t, release(t, version), "*_image.tar")).unpack(root)

	must(t, os.Mkdir(filepath.Join(root, "etc/controlplane"), 0o755))
	must(t, os.WriteFile(filepath.Join(root, c.Cmd[2]), []byte(fileCatalog), 0o644))
	must(t, os.WriteFile(filepath.Join(root, "etc/controlplane/catalog.yaml"), []byte("services: {}\n"), 0o644))
	user, group, _ := strings.Cut(c.User, ":")
	args := []string{
		"--net", "--mount", "--uts", "--ipc", "--root=" + root, "--wd=" + c.WorkingDir, "--setuid=" + user, "--setgid=" + group,
		"/usr/bin/controlplane",
	}
	if c.Entrypoint[0] != args[len(args)-1] {
		t.Fatalf("the image's entry point is %q", c.Entrypoint)
	}
	out, err := tool.Exec(t.Context(), "unshare", c.Env, append(slices.Clone(args), "version")...)
	must(t, err)
	contains(t, "controlplane version in the image", out.Stdout+out.Stderr, version)

	unshare, err := tool.Find("unshare")
	must(t, err)
	p, err := tool.Start(tool.Command{Name: "image", Path: unshare, Env: c.Env, Args: append(slices.Clone(args), append(c.Cmd, "--xds-address", "127.0.0.1:18000")...)})
	must(t, err)
	t.Cleanup(p.Kill)
	must(t, p.Until(t.Context(), "the image serves", effectTime, func() error {
		if !strings.Contains(p.Log.String(), `"catalog read"`) {
			return errors.New(p.Log.String())
		}
		return nil
	}))
	if _, err := os.Stat(filepath.Join(root, "var/lib/controlplane/ca.pem")); err != nil {
		t.Error(err)
	}
	must(t, p.Stop())
	if p.ExitCode() != 0 {
		t.Errorf("after SIGTERM it ends with %d: %s", p.ExitCode(), p.Log)
	}

	says := dockerfile(t, "deploy/image/Dockerfile")
	for key, want := range map[string]string{"USER": c.User, "WORKDIR": c.WorkingDir, "ENTRYPOINT": quoted(t, c.Entrypoint), "CMD": quoted(t, c.Cmd)} {
		if !slices.Equal(says[key], []string{want}) {
			t.Errorf("the Dockerfile says %s %q, the image %q", key, says[key], want)
		}
	}
	if !slices.Equal(says["ENV"], c.Env) {
		t.Errorf("the Dockerfile says ENV %q, the image %q", says["ENV"], c.Env)
	}
}

// Both Dockerfiles copy what deploy/image/rootfs.sh makes, and nothing else.
func TestTheDockerfilesCopyWhatThereIs(t *testing.T) {
	root := t.TempDir()
	script := filepath.Join(tool.Root(), "deploy/image/rootfs.sh")
	if out, err := exec.CommandContext(t.Context(), script, "/bin/true", root).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, name := range []string{"deploy/image/Dockerfile", "deploy/image/sidecar.Dockerfile"} {
		copies := dockerfile(t, name)["COPY"]
		if len(copies) == 0 {
			t.Errorf("%s copies nothing", name)
		}
		for _, line := range copies {
			words := slices.DeleteFunc(strings.Fields(line), func(w string) bool { return strings.HasPrefix(w, "--") })
			if _, err := os.Stat(filepath.Join(root, words[0])); err != nil || len(words) != 2 {
				t.Errorf("%s: COPY %s: %v", name, line, err)
			}
		}
	}
}

// dockerfile returns the arguments of the instructions of a Dockerfile, by
// instruction.
func dockerfile(t *testing.T, name string) map[string][]string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(tool.Root(), name))
	must(t, err)
	out := make(map[string][]string)
	for line := range strings.Lines(string(text)) {
		if m := regexp.MustCompile(`^([A-Z]+) (.*)`).FindStringSubmatch(strings.TrimSpace(line)); m != nil {
			out[m[1]] = append(out[m[1]], m[2])
		}
	}
	return out
}

func quoted(t *testing.T, words []string) string {
	t.Helper()
	data, err := json.Marshal(words)
	must(t, err)
	return strings.ReplaceAll(string(data), `","`, `", "`)
}
