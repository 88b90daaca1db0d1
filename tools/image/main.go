// Command image packs the roots of a container image, one an architecture, into
// an archive of the OCI's image layout, which `docker load`, `podman load` and
// `skopeo copy oci-archive:` take. It needs no container tool, and the same roots
// give the same bytes.
package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"
)

func main() {
	out := flag.String("out", "image.tar", "the archive to write")
	version := flag.String("version", "", "version of the image")
	created := flag.Int64("created", 0, "time stamp of all that is in it, in seconds since 1970")
	flag.Parse()
	if err := run(*out, *version, time.Unix(*created, 0).UTC(), flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func run(out, version string, created time.Time, roots []string) error {
	l := newLayout(version, created)
	for _, arg := range roots {
		arch, root, ok := strings.Cut(arg, "=")
		if !ok {
			return fmt.Errorf("%q: want ARCH=ROOT", arg)
		}
		if err := l.add(arch, root); err != nil {
			return fmt.Errorf("%s: %w", arch, err)
		}
	}
	var archive bytes.Buffer
	if err := l.write(&archive); err != nil {
		return err
	}
	return os.WriteFile(out, archive.Bytes(), 0o644) //nolint:gosec // it is published
}
