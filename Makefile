# The two commands of the README are `make demo` and `make test`.

SHELL := /bin/bash
GO    ?= go
TOOLS := $(CURDIR)/.tools/bin
export PATH := $(TOOLS):$(PATH)

.PHONY: demo test unit component e2e faults fuzz soak bench bench-quick lint tools tools-demo tools-lint tools-release build release clean

## demo: a whole mesh on this machine, live (ONCE=1: run the script and exit; CATALOG=file: without Consul)
demo: tools-demo build
	@$(GO) run ./demo --binary bin/controlplane $(if $(ONCE),--once) $(if $(CATALOG),--catalog $(CATALOG))

## build: the binary, into bin/
build:
	@$(GO) build -trimpath -o bin/controlplane ./cmd/controlplane

## release: archives, packages, an image, what is in them and their checksums, into dist/ (VERSION=1.2.3)
release: tools-release
	@tools/release.sh dist

## test: everything, with the real components
test: tools
	@tools/test.sh

# Most of what the unit tests do is to wait, so more packages run at a time than
# there are processors.
## unit: the tests that need neither Envoy nor Consul, in less than a minute
unit:
	$(GO) test -p 8 $$($(GO) list ./... | grep -v -E '/e2e($$|/)')

## component: the tests of single packages against real Envoys and Consuls, and those that put a control plane under load
component: tools
	@tools/test.sh component

## e2e: the tests against real Envoy, Consul and Prometheus
e2e: tools
	$(GO) test -count=1 ./e2e/...

## faults: every fault of docs/reliability.md, with its tests, also those that `make test` leaves (about 20 minutes); fault-F05: one
faults: tools
	@$(GO) run ./internal/faults/run all

fault-%: tools
	@$(GO) run ./internal/faults/run $*

## fuzz: every fuzz target in turn (FUZZTIME=10m: each so long)
fuzz:
	@tools/fuzz.sh

## soak: half an hour of churn of everything; the samples and their plot go into docs/ (SOAK=5m: so long)
soak: tools
	@$(GO) run ./e2e/soak --for $(or $(SOAK),30m) --csv docs/soak.csv
	@cd tools/plot && $(GO) run . $(CURDIR)/docs/soak.csv $(CURDIR)/docs/soak.svg

## bench: the engine side by side with others, at full size (30 to 40 minutes); bench-quick: two minutes
bench:
	@$(GO) run ./e2e/bench

bench-quick:
	@$(GO) run ./e2e/bench --quick

## lint: gofumpt, go vet, golangci-lint (with the import direction)
lint: tools-lint
	@tools/lint.sh

## tools: install Envoy, Consul, Prometheus, the linters, and what releases and the machines of the tests need, each only if it is missing
tools:
	@tools/install.sh envoy consul prometheus lint release machine faults deployfiles

tools-demo:
	@tools/install.sh envoy $(if $(filter file,$(CATALOG)),,consul)

tools-lint:
	@tools/install.sh lint

tools-release:
	@tools/install.sh release

## clean: remove what was built and installed here
clean:
	rm -rf bin dist .tools
