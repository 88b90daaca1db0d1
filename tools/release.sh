#!/usr/bin/env bash
# Makes what is given to others, for amd64 and arm64, into a directory: an
# archive, a deb and an rpm package, a container image, a list of what is in the
# binary (CycloneDX), and the checksums of all. The same commit gives the same
# bytes. Usage: tools/release.sh [DIR]   (default: dist)
#
# $VERSION is the version, 1.2.3 or 1.2.3-rc.1; without it, that of the tag vN
# of the commit, else one made of the time of the commit. $ARCHS is what to make it
# for, if not for both.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PWD/.tools/bin:$PATH
out=${1:-dist}

if [ -z "${VERSION:-}" ]; then
  VERSION=$(git describe --tags --exact-match --match 'v[0-9]*' 2>/dev/null | sed 's/^v//') ||
    VERSION=0.0.0-dev.$(TZ=UTC git log -1 --date=format-local:%Y%m%d%H%M%S --format=%cd).g$(git rev-parse --short=10 HEAD)
  [ -z "$(git status --porcelain)" ] || VERSION+=.dirty
fi
# Every time stamp is that of the commit, whenever it is built.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
export VERSION SOURCE_DATE_EPOCH
export LC_ALL=C TZ=UTC
umask 022

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/out"

# pack ARCHIVE DIR NAME: what DIR/NAME holds, the same bytes whoever packs it.
pack() {
  tar --create --directory "$2" --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner --format=gnu "$3" |
    gzip --no-name >"$1"
}

# make ARCH: all that is of one architecture.
make() {
  local arch=$1 name dir packager
  name=controlplane_${VERSION}_linux_$arch
  dir=$work/$arch/$name
  mkdir -p "$dir"
  CGO_ENABLED=0 GOOS=linux GOARCH=$arch go build -trimpath -buildvcs=false \
    -ldflags "-s -w -buildid= -X main.version=$VERSION" -o "$dir/controlplane" ./cmd/controlplane
  cp -r LICENSE README.md CHANGELOG.md docs configs deploy "$dir"
  find "$dir" -name '*_test.go' -delete
  find "$dir" -type d -name testdata -prune -exec rm -r {} +
  chmod -R u=rwX,go=rX "$dir"

  # Licenses are read from the modules that the build has fetched.
  GOPROXY=off cyclonedx-gomod bin -json -noserial -notimestamp -std -licenses -version "v$VERSION" \
    -output "$work/out/$name.cdx.json" "$dir/controlplane" 2>"$work/$arch.log" || { cat "$work/$arch.log" >&2; exit 1; }
  pack "$work/out/$name.tar.gz" "$work/$arch" "$name"
  for packager in deb rpm; do
    ARCH=$arch TREE=$dir nfpm package --config deploy/package/nfpm.yaml --packager "$packager" --target "$work/out" >/dev/null
  done
  deploy/image/rootfs.sh "$dir/controlplane" "$work/rootfs/$arch"
}

# Side by side: what takes time is to compress, on one core each.
roots=() makers=()
for arch in ${ARCHS:-amd64 arm64}; do
  make "$arch" &
  makers+=($!)
  roots+=("$arch=$work/rootfs/$arch")
done
for maker in "${makers[@]}"; do wait "$maker"; done
go run ./tools/image --version "$VERSION" --created "$SOURCE_DATE_EPOCH" --out "$work/out/controlplane_${VERSION}_image.tar" "${roots[@]}"

(cd "$work/out" && sha256sum -- * >SHA256SUMS)
mkdir -p "$out"
rm -f "$out"/controlplane_* "$out"/controlplane-* "$out"/SHA256SUMS
cp "$work"/out/* "$out"
(cd "$out" && ls -l --block-size=KB | awk 'NR > 1 {print "  " $5, $NF}')
