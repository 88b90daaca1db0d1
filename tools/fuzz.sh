#!/usr/bin/env bash
# Runs every fuzz target in turn, each for $FUZZTIME (one minute), on one core, and
# says how many inputs each has tried. Go's own cache has what it found of use; an
# input that fails is put under testdata/fuzz, where every run of the tests finds it.
#
#   tools/fuzz.sh            all of them
#   tools/fuzz.sh list       says which there are
#   tools/fuzz.sh keep       copies the smallest inputs of the cache into testdata/fuzz
set -euo pipefail
cd "$(dirname "$0")/.."

most=24 # inputs that are kept of a target; those of over 4 KB are not

targets() {
  grep -rE --include='*_test.go' '^func Fuzz' . | grep -vE '^\./\.tools/' |
    sed -nE 's|^(.*)/[^/]*:func (Fuzz[A-Za-z0-9_]*)\(.*|\1 \2|p' | sort
}

case ${1:-run} in
list) targets ;;
keep)
  cache=$(go env GOCACHE)/fuzz/$(go list -m)
  while read -r package target; do
    from=$cache/$package/$target to=$package/testdata/fuzz/$target
    [ -d "$from" ] || continue
    mkdir -p "$to"
    find "$from" -type f -size -5 -printf '%s %f\n' | sort -n | head -n "$most" | while read -r _ name; do
      cp -n "$from/$name" "$to/$name"
    done
  done < <(targets)
  ;;
run)
  out=$(mktemp)
  trap 'rm -f "$out"' EXIT
  status=0
  while read -r package target; do
    if go test -run '^$' -fuzz "^$target\$" -fuzztime "${FUZZTIME:-1m}" -parallel 1 "$package" >"$out" 2>&1; then
      echo "$package $target: $(grep -oE 'execs: [0-9]+' "$out" | tail -n 1)"
    else
      cat "$out"
      status=1
    fi
  done < <(targets)
  exit "$status"
  ;;
*) echo "tools/fuzz.sh: want list, keep or nothing" >&2; exit 2 ;;
esac
