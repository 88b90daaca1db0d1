// Package deploy tests what is given to operators as they get it: releases,
// packages, units, images, and the pages that say what to do with them. Each is
// installed on a machine of its own.
package deploy

import (
	"bytes"
	"debug/elf"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"datapunk.dev/controlplane/internal/tool"
)

// The versions that the tests install, and upgrade to.
const (
	version     = "1.2.3-rc.1"
	nextVersion = "1.2.3"

	epoch = "SOURCE_DATE_EPOCH=1700000000" // when they were committed
)

var (
	releasesMu sync.Mutex
	releases   = make(map[string]string) // by version
	scratch    string
)

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "release-")
	if err != nil {
		panic(err)
	}
	scratch = dir
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// makeRelease makes a release as `make release` does, in a directory.
func makeRelease(t *testing.T, root, dir string, env ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "tools/release.sh", dir)
	cmd.Dir = root
	cmd.Env = append(append(os.Environ(), "PATH="+filepath.Join(tool.Root(), ".tools", "bin")+":"+os.Getenv("PATH")), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("tools/release.sh: %v\n%s", err, out)
	}
}

// release returns the directory of a release: of version for every architecture,
// of nextVersion for this machine's.
func release(t *testing.T, of string) string {
	t.Helper()
	releasesMu.Lock()
	defer releasesMu.Unlock()
	if releases[of] == "" {
		dir := filepath.Join(scratch, of)
		env := []string{"VERSION=" + of, epoch}
		if of == nextVersion {
			env = append(env, "ARCHS="+runtime.GOARCH)
		}
		makeRelease(t, tool.Root(), dir, env...)
		releases[of] = dir
	}
	return releases[of]
}

// file returns the one file of a release that a pattern matches.
func file(t *testing.T, dir, pattern string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil || len(found) != 1 {
		t.Fatalf("%s in %s: %q, %v", pattern, dir, found, err)
	}
	return found[0]
}

// packaged returns the package of a release for this machine: a deb or an rpm.
func packaged(t *testing.T, version, kind string) string {
	t.Helper()
	arch := runtime.GOARCH
	if kind == "rpm" {
		arch = map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[arch]
	}
	return file(t, release(t, version), "*"+arch+"."+kind)
}

func contains(t *testing.T, what, text string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(text, w) {
			t.Errorf("%s has no %q:\n%s", what, w, text)
		}
	}
}

// effectTime is how long a change may take to be seen. Most take milliseconds.
const effectTime = 15 * time.Second

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Whoever builds a commit again gets the same bytes, wherever the files lie and
// whatever the time, the locale and the mask of modes are: so a release can be
// checked by others. And what a release has is what it says.
func TestAReleaseIsTheSameWhenItIsBuiltAgain(t *testing.T) {
	first, again := release(t, version), t.TempDir()

	// The files of the commit and what is not committed yet, elsewhere.
	copied := filepath.Join(t.TempDir(), "elsewhere")
	script := `umask 077 && mkdir "$1" && git ls-files --cached --others --exclude-standard -z | xargs -0 cp --parents --no-preserve=mode,timestamps --target-directory "$1"
		chmod u+x "$1"/tools/*.sh "$1"/deploy/image/*.sh`
	cmd := exec.CommandContext(t.Context(), "bash", "-ec", script, "copy", copied)
	cmd.Dir = tool.Root()
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	makeRelease(t, copied, again, "VERSION="+version, epoch, "LC_ALL=C.UTF-8", "TZ=Asia/Tokyo", "GOAMD64=v1")

	sums, err := os.ReadFile(filepath.Join(first, "SHA256SUMS"))
	must(t, err)
	others, err := os.ReadFile(filepath.Join(again, "SHA256SUMS"))
	must(t, err)
	if string(sums) != string(others) {
		t.Errorf("built again, it is another one:\n%s\n%s", sums, others)
	}
	check := exec.CommandContext(t.Context(), "sha256sum", "--check", "--strict", "SHA256SUMS")
	check.Dir = first
	if out, err := check.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	for _, pattern := range []string{
		"*_linux_amd64.tar.gz", "*_linux_arm64.tar.gz", "*_amd64.deb", "*_arm64.deb", "*.x86_64.rpm", "*.aarch64.rpm",
		"*_linux_amd64.cdx.json", "*_linux_arm64.cdx.json", "*_image.tar",
	} {
		contains(t, "SHA256SUMS", string(sums), filepath.Base(file(t, first, pattern)))
	}

	// What is in the binary: each module with its version, and licenses.
	var bom struct {
		BOMFormat  string
		Components []struct{ Name, Version, PURL string }
	}
	data, err := os.ReadFile(file(t, first, "*_linux_arm64.cdx.json"))
	must(t, err)
	must(t, json.Unmarshal(data, &bom))
	found := make(map[string]string)
	for _, c := range bom.Components {
		found[c.Name] = c.Version
	}
	if bom.BOMFormat != "CycloneDX" || !strings.HasPrefix(found["std"], "go1.") || found["google.golang.org/grpc"] == "" {
		t.Errorf("the list of what is in the binary: %v", found)
	}
	contains(t, "the list of what is in the binary", string(data), "Apache-2.0", version)
	for _, path := range []string{tool.Root(), copied} {
		if bytes.Contains(data, []byte(path)) {
			t.Errorf("the list of what is in the binary names %s", path)
		}
	}

	// The archive has the binary of its architecture.
	binary := filepath.Join(t.TempDir(), "controlplane")
	extract := exec.CommandContext(t.Context(), "sh", "-ec", `tar -xzOf "$1" --wildcards '*/controlplane' >"$2"`, "sh", file(t, first, "*_linux_arm64.tar.gz"), binary)
	if out, err := extract.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	f, err := elf.Open(binary)
	must(t, err)
	defer f.Close() //nolint:errcheck // read only
	if f.Machine != elf.EM_AARCH64 || f.Section(".interp") != nil {
		t.Errorf("the binary for arm64 is for %s, and statically linked: %v", f.Machine, f.Section(".interp") == nil)
	}
}
