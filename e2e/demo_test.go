package e2e

import (
	"os/exec"
	"path/filepath"
	"testing"

	"datapunk.dev/controlplane/e2e/harness"
)

// What the README promises first: the demo goes through its script, and each
// step is seen to happen.
func TestTheDemo(t *testing.T) {
	t.Parallel() // it waits, most of the time
	demo := filepath.Join(t.TempDir(), "demo")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", demo, "../demo").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, catalog := range []string{"consul", "file"} {
		t.Run(catalog, func(t *testing.T) {
			out, err := exec.CommandContext(t.Context(), demo, "--once", "--catalog", catalog, "--binary", harness.Binary()).CombinedOutput()
			if err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}
