#!/usr/bin/env bash
# Runs every test, race detector on for all but the end-to-end ones, and ends
# with the counts of what ran. A skipped test is a failure: nothing may skip.
set -u
cd "$(dirname "$0")/.."

out=$(mktemp)
trap 'rm -f "$out"' EXIT
status=0

tools/lint.sh || status=1

mapfile -t unit < <(go list ./... | grep -v -E '/e2e($|/)')
go test -race -v -timeout 15m "${unit[@]}" 2>&1 | tee -a "$out" | grep -v -E '^(=== |\s*--- PASS|PASS$)'
[ "${PIPESTATUS[0]}" = 0 ] || status=1

go test -v -count=1 -timeout 25m ./e2e/... 2>&1 | tee -a "$out" | grep -v -E '^(=== |PASS$)'
[ "${PIPESTATUS[0]}" = 0 ] || status=1

passed=$(grep -c -E '^\s*--- PASS' "$out")
failed=$(grep -c -E '^\s*--- FAIL' "$out")
skipped=$(grep -c -E '^\s*--- SKIP' "$out")
if [ "$skipped" != 0 ]; then
  grep -E '^\s*--- SKIP' "$out"
  status=1
fi
[ "$passed" != 0 ] || status=1
echo "$passed passed, $failed failed, $skipped skipped"
exit "$status"
