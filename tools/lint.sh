#!/usr/bin/env bash
# Formatting, vet and lint. Exits 1 and says where if any of them objects.
set -euo pipefail
cd "$(dirname "$0")/.."

unformatted=$(gofumpt -l .)
if [ -n "$unformatted" ]; then
  printf 'not formatted by gofumpt:\n%s\n' "$unformatted" >&2
  exit 1
fi
go vet ./...
go vet -tags component,slow ./...
golangci-lint run ./...
