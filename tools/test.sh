#!/usr/bin/env bash
# Runs every test, race detector on for all but the end-to-end ones, and ends
# with the counts of what ran. A skipped test is a failure: nothing may skip.
#
# The tests of single packages that need a real Envoy or Consul, or put a control
# plane under load, stand in files with the build tag `component`: `go test ./...`
# leaves them out, and this does not. That each of them ran is checked by name.
# Those with the tag `slow` are left to `make faults`; each is named at the end.
#
# Where real components share two processors, one test of thousands may run out of
# its time. So up to three tests that failed are run once more, alone: what fails
# again fails the run, and what does not is named at the end, with what it had said:
# it may have found a fault all the same. A data race, a panic and a package that
# failed without naming a test are never run again.
#
#   tools/test.sh            everything
#   tools/test.sh component  the tests with that tag alone
set -u
cd "$(dirname "$0")/.."

out=$(mktemp)
rerun=$(mktemp)
trap 'rm -f "$out" "$rerun"' EXIT
status=0 tests=0
only=${1:-}

tagged() { grep -rlE --include='*_test.go' '^//go:build component$' . | grep -vE '^\./\.tools/'; }
mapfile -t components < <(tagged | xargs sed -nE 's/^func (Test[A-Z][A-Za-z0-9_]*)\(.*/\1/p' | sort -u)
[ "${#components[@]}" != 0 ] || { echo "no test has the tag component" >&2; status=1; }

if [ "$only" = component ]; then
  mapfile -t unit < <(tagged | xargs -n1 dirname | sort -u)
  flags=(-run "^($(IFS='|'; echo "${components[*]}"))\$")
else
  tools/lint.sh || status=1
  mapfile -t unit < <(go list ./... | grep -v -E '/e2e($|/)')
  flags=()
fi
go test -race -v -timeout 15m -tags component "${flags[@]}" "${unit[@]}" 2>&1 | tee -a "$out" | grep -v -E '^(=== |\s*--- PASS|PASS$)'
[ "${PIPESTATUS[0]}" = 0 ] || tests=1

if [ "$only" != component ]; then
  go test -v -count=1 -parallel 3 -timeout 45m ./e2e/... 2>&1 | tee -a "$out" | grep -v -E '^(=== |PASS$)'
  [ "${PIPESTATUS[0]}" = 0 ] || tests=1
fi

# said prints the last that a test said when it failed, from among the others' lines.
said() {
  awk -v test="$1" '
    /^=== / { split($3, name, "/"); now = name[1]; next }
    $0 ~ "^--- FAIL: " test " " { ended = 1; exit }
    now == test { lines[++n] = $0 }
    END { if (ended) for (i = n > 60 ? n - 59 : 1; i <= n; i++) print lines[i] }' "$out"
}

# again runs the tests that failed once more, and is true when they pass.
again() {
  local failed where name package race pattern
  mapfile -t failed < <(sed -nE 's/^--- FAIL: (Test[^ ]*) .*/\1/p' "$out" | sort -u)
  mapfile -t where < <(sed -nE 's/^FAIL\t([^\t ]+)\t.*/\1/p' "$out" | sort -u)
  for name in "${failed[@]:0:10}"; do
    echo "$name failed, and had said:"
    said "$name"
  done
  [ "${#failed[@]}" != 0 ] && [ "${#failed[@]}" -le 3 ] && [ "${#where[@]}" != 0 ] || return 1
  ! grep -qE '^panic: |DATA RACE|race detected during|\[(build|setup) failed\]' "$out" || return 1
  pattern="^($(IFS='|'; echo "${failed[*]}"))\$"
  for package in "${where[@]}"; do
    race=-race
    [[ $package != */e2e && $package != */e2e/* ]] || race=-race=false
    echo "once more, alone: $package"
    go test "$race" -v -count=1 -parallel 1 -timeout 10m -tags component -run "$pattern" "$package" >"$rerun" 2>&1 || { cat "$rerun"; return 1; }
    # Where no test ran, the package had failed of itself.
    grep -qE '^--- PASS: ' "$rerun" && ! grep -qE '^\s*--- SKIP: ' "$rerun" || return 1
  done
  echo "failed among the others, and passed alone: ${failed[*]}"
}
[ "$tests" = 0 ] || again || status=1

for name in "${components[@]}"; do
  grep -qE "^--- (PASS|FAIL): $name " "$out" || { echo "$name did not run"; status=1; }
done

passed=$(grep -c -E '^\s*--- PASS' "$out")
failed=$(grep -c -E '^\s*--- FAIL' "$out")
skipped=$(grep -c -E '^\s*--- SKIP' "$out")
if [ "$skipped" != 0 ]; then
  grep -E '^\s*--- SKIP' "$out"
  status=1
fi
[ "$passed" != 0 ] || status=1
[ "$only" = component ] || go run ./internal/faults/run left || status=1
echo "$passed passed, $failed failed, $skipped skipped; ${#components[@]} of them with real components or under load"
exit "$status"
