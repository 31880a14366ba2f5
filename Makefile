# Every recipe is something a human could type.

CONTAINERD     := 2.4.2
CONTAINERD_OLD := 1.7.35
GOLANGCI_LINT  := 2.15.0
ORAS           := 1.3.6
COSIGN         := 3.1.3
STARGZ         := 0.19.1
SOCI           := 0.16.1

CACHE := $(CURDIR)/.cache
TOOLS := $(CACHE)/tools

# What the end-to-end tests, the demo and the benchmarks need from Debian.
PACKAGES := attr chromium containernetworking-plugins curl docker-registry e2fsprogs \
  erofs-utils iproute2 linux-image-amd64 mmdebstrap prometheus qemu-system-x86 qemu-utils \
  rpm runc shellcheck squashfs-tools systemd-container umoci xfsprogs xz-utils zlib1g-dev zstd

CONTAINERD_CMDS := $(addprefix github.com/containerd/containerd/v2/cmd/,$(addsuffix @v$(CONTAINERD),containerd containerd-shim-runc-v2 ctr))

.PHONY: help
help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sort | sed 's/:.*## /\t/' | expand -t 12

.PHONY: deps
deps: ## Install the Debian packages that tests and demo need
	@dpkg -s $(PACKAGES) >/dev/null 2>&1 || apt-get update
	@dpkg -s $(PACKAGES) >/dev/null 2>&1 || DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends -o DPkg::Lock::Timeout=300 $(PACKAGES)

.PHONY: tools
tools: $(addprefix $(TOOLS)/,$(addsuffix /.done,containerd-$(CONTAINERD) containerd-$(CONTAINERD_OLD) oras-$(ORAS) cosign-$(COSIGN) soci-ztoc-$(SOCI))) ## Build containerd, oras, cosign and SOCI's writer into .cache/tools

$(TOOLS)/containerd-$(CONTAINERD)/.done:
	CGO_ENABLED=0 GOBIN=$(@D) go install -trimpath $(CONTAINERD_CMDS)
	touch $@

$(TOOLS)/containerd-$(CONTAINERD_OLD)/.done:
	mkdir -p $(@D)
	cd e2e/tools/containerd17 && CGO_ENABLED=0 go build -trimpath -o $(@D)/ tool
	touch $@

$(TOOLS)/oras-$(ORAS)/.done:
	CGO_ENABLED=0 GOBIN=$(@D) go install -trimpath oras.land/oras/cmd/oras@v$(ORAS)
	touch $@

$(TOOLS)/cosign-$(COSIGN)/.done:
	CGO_ENABLED=0 GOBIN=$(@D) go install -trimpath github.com/sigstore/cosign/v3/cmd/cosign@v$(COSIGN)
	touch $@

# SOCI's library is C in part, linked with zlib.
$(TOOLS)/soci-ztoc-$(SOCI)/.done:
	mkdir -p $(@D)
	cd e2e/tools/soci && CGO_ENABLED=1 go build -trimpath -o $(@D)/soci-ztoc .
	touch $@

# What the benchmarks compare with.
.PHONY: peers
peers: deps $(TOOLS)/stargz-$(STARGZ)/.done $(TOOLS)/soci-$(SOCI)/.done ## Build the other snapshotters that benchmarks compare with

$(TOOLS)/stargz-$(STARGZ)/.done: $(wildcard e2e/tools/stargz/*)
	mkdir -p $(@D)
	cd e2e/tools/stargz && CGO_ENABLED=0 go build -trimpath -o $(@D)/stargz .
	touch $@

$(TOOLS)/soci-$(SOCI)/.done: $(wildcard e2e/tools/soci/peer/* e2e/tools/soci/go.*)
	mkdir -p $(@D)
	cd e2e/tools/soci && CGO_ENABLED=1 go build -trimpath -o $(@D)/soci ./peer
	touch $@

$(TOOLS)/golangci-lint-$(GOLANGCI_LINT)/.done:
	CGO_ENABLED=0 GOBIN=$(@D) go install -trimpath github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v$(GOLANGCI_LINT)
	touch $@

# Every fuzz target as fuzz/<folder>/<file>@<function>.
FUZZTIME := 10s
FUZZERS  := $(addprefix fuzz/,$(subst _test.go:,@,$(shell git grep -oP '(?<=^func )Fuzz\w+' -- '*_test.go')))

# `make test TESTFLAGS=-v` shows every test and why some are skipped.
TESTFLAGS :=

.PHONY: build
build: ## Build bin/referee
	CGO_ENABLED=0 go build -trimpath -o bin/referee ./cmd/referee

.PHONY: test
test: deps tools build ## Run every test, end to end included (root)
	go vet ./...
	go test -race -timeout 70m $(TESTFLAGS) ./...
	cd packaging && go test -timeout 40m $(TESTFLAGS) ./...
	cd charts && go test -timeout 40m $(TESTFLAGS) ./...

.PHONY: e2e
e2e: deps tools build ## Run only the end-to-end tests (root)
	go test -race -timeout 70m -count=1 $(TESTFLAGS) ./e2e/...

# `make soak SOAK_KILLS=20 SOAK_SEED=1` is shorter, and repeats an order of events.
SOAK_KILLS := 100
SOAK_SEED  :=

.PHONY: soak
soak: deps tools build ## Let containers read while everything fails around them, some 15 minutes (root)
	SOAK_KILLS=$(SOAK_KILLS) SOAK_SEED=$(SOAK_SEED) go test -race -timeout 3h -count=1 -v -run '^TestSoak(Settled)?$$' ./e2e

.PHONY: lint
lint: $(TOOLS)/golangci-lint-$(GOLANGCI_LINT)/.done ## Run the linters
	$(<D)/golangci-lint run --timeout 15m ./...
	cd packaging && $(<D)/golangci-lint run --timeout 15m ./...
	cd charts && $(<D)/golangci-lint run --timeout 15m ./...

.PHONY: bench
bench: deps tools peers build ## Measure small images against ordinary pulls and other snapshotters, 15 minutes (root)
	go test -run '^$$' -bench . -benchtime 0.5s ./criimage ./lazyblock/...
	go run ./e2e/bench -n 2 -within 4m -plans 3 -images small,redis -json .cache/bench.json

.PHONY: bench-full
bench-full: deps tools peers build ## Measure all images and write docs/benchmarks.md, 90 minutes (root)
	go run ./e2e/bench -n 3 -within 45m -formats redis,python -images small,nginx,redis,node,postgres,python -json .cache/bench-full.json -docs docs

.PHONY: demo
demo: deps tools build ## Show an image being pulled lazily on a real node, converted and not (root)
	go run ./e2e/demo

.PHONY: fuzz
fuzz: $(FUZZERS) ## Fuzz every parser for FUZZTIME

.PHONY: $(FUZZERS)
$(FUZZERS): fuzz/%:
	go test -run '^$$' -fuzz '^$(lastword $(subst @, ,$*))$$' -fuzztime $(FUZZTIME) ./$(dir $*)

.PHONY: fmt
fmt: $(TOOLS)/golangci-lint-$(GOLANGCI_LINT)/.done ## Format the code
	$(<D)/golangci-lint fmt ./...

# `make package VERSION=v1.2.3`; without it, what git describe says.
VERSION :=

.PHONY: package
package: ## Build packages, static binaries and bills of materials into dist
	cd packaging && go run . -version '$(VERSION)'

.PHONY: generate
generate: ## Write the tables of docs/operations.md anew
	go test -count=1 -run '^TestOperationsDocumentIsCurrent$$' ./cmd/referee -update

.PHONY: clean
clean: ## Remove everything that was built
	rm -rf bin dist .cache
