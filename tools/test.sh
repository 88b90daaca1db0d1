#!/usr/bin/env bash
# Runs every test, race detector on for all but the end-to-end ones, and ends
# with the counts of what ran. A skipped test is a failure: nothing may skip.
#
# The tests of single packages that need a real Envoy or Consul, or put a control
# plane under load, stand in files with the build tag `component`: `go test ./...`
# leaves them out, and this does not. That each of them ran is checked by name.
# Those with the tag `slow` are left to `make faults`; each is named at the end.
#
#   tools/test.sh            everything
#   tools/test.sh component  the tests with that tag alone
set -u
cd "$(dirname "$0")/.."

out=$(mktemp)
trap 'rm -f "$out"' EXIT
status=0
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
[ "${PIPESTATUS[0]}" = 0 ] || status=1

if [ "$only" != component ]; then
  go test -v -count=1 -parallel 3 -timeout 45m ./e2e/... 2>&1 | tee -a "$out" | grep -v -E '^(=== |PASS$)'
  [ "${PIPESTATUS[0]}" = 0 ] || status=1
fi

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
