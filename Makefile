SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

GO      ?= go
BIN     := bin
TOOLS   := .tmp/bin
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -X main.version=$(VERSION)

# SQLite's full-text search and mathematics, which agents' programs expect.
export GOFLAGS := $(strip $(shell $(GO) env GOFLAGS) -tags=sqlite_fts5,sqlite_math_functions)

# Packages whose tests run under the race detector in `make test`.
PKGS := ./...

.PHONY: help
help: ## show this list
	@grep -hE '^[a-z][a-z-]*:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

.PHONY: build
build: ## build bin/agentd
	@mkdir -p $(BIN)
	$(GO) build -ldflags '$(LDFLAGS)' -o $(BIN)/agentd ./cmd/agentd

.PHONY: run
run: build ## start a node with the examples deployed (data in .agentd)
	$(BIN)/agentd dev examples/research/research.ts examples/counter/counter.ts examples/chat-room/room.ts

.PHONY: demo
demo: build ## kill an agent's node in the middle of its work and watch the work finish
	$(GO) run ./internal/demo -agentd $(BIN)/agentd

.PHONY: test
test: ## all short tests, with the race detector
	$(GO) test -race -short -timeout 10m $$($(GO) list $(PKGS) | grep -v /internal/e2e)
	@# Real processes with real deadlines do not share the machine with other tests.
	$(GO) test -race -short -timeout 10m ./internal/e2e

.PHONY: slow
slow: ## process kills again and again, then every fuzz target for 15 s
	$(GO) test -count=5 -timeout 30m ./internal/e2e
	@for f in $$(grep -rlE '^func Fuzz' --include='*_test.go' pkg internal | xargs -n1 dirname | sort -u); do \
		for name in $$(grep -hoE '^func Fuzz[A-Za-z0-9_]+' $$f/*_test.go | awk '{print $$2}'); do \
			$(GO) test -run '^$$' -fuzz "^$$name$$" -fuzztime 15s ./$$f; \
		done; \
	done

.PHONY: crash
crash: ## lost writes, kills, full disks and bit rot on small real file systems; needs root and loop devices
	$(GO) test -count=1 -timeout 30m ./internal/disktrial -require

.PHONY: soak
soak: ## ten minutes of random agents; memory must stay flat
	$(GO) test -v -run TestSoak -soak 10m -timeout 20m ./pkg/replication/single

.PHONY: sanitize
sanitize: ## the C of the storage engine under the address and undefined-behaviour sanitizers
	CGO_CFLAGS="-O1 -g -fsanitize=undefined -fno-sanitize-recover=undefined" CGO_LDFLAGS="-fsanitize=undefined" $(GO) test -asan -count=1 ./pkg/storage/internal/sqlite/

.PHONY: deploy-test
deploy-test: ## read everything in deploy/ with the parsers of those who will read it
	cd deploy/test && $(GO) vet ./... && $(GO) test -count=1 ./...

.PHONY: bench
bench: build ## measure, as ratios within one run; the table goes to docs/benchmarks.md
	$(GO) run ./internal/bench -agentd $(BIN)/agentd

.PHONY: bench-go
bench-go: ## the packages' own benchmarks
	$(GO) test -run '^$$' -bench . -benchmem $(PKGS)

.PHONY: fmt
fmt: ## format all Go code
	gofmt -w $$(git ls-files '*.go')

.PHONY: lint
lint: $(TOOLS)/staticcheck ## vet and staticcheck
	$(GO) vet $(PKGS)
	$(TOOLS)/staticcheck $(PKGS)

.PHONY: proto
proto: $(TOOLS)/buf $(TOOLS)/protoc-gen-go $(TOOLS)/protoc-gen-go-grpc ## regenerate Go code from proto/
	cd proto && PATH="$(CURDIR)/$(TOOLS):$$PATH" $(CURDIR)/$(TOOLS)/buf lint
	cd proto && PATH="$(CURDIR)/$(TOOLS):$$PATH" $(CURDIR)/$(TOOLS)/buf format -w
	cd proto && PATH="$(CURDIR)/$(TOOLS):$$PATH" $(CURDIR)/$(TOOLS)/buf generate

# Each tool is built from the version that tools/go.mod pins.
$(TOOLS)/buf: tools/go.mod
	@mkdir -p $(TOOLS)
	cd tools && $(GO) build -o $(CURDIR)/$@ github.com/bufbuild/buf/cmd/buf
$(TOOLS)/protoc-gen-go: tools/go.mod
	@mkdir -p $(TOOLS)
	cd tools && $(GO) build -o $(CURDIR)/$@ google.golang.org/protobuf/cmd/protoc-gen-go
$(TOOLS)/protoc-gen-go-grpc: tools/go.mod
	@mkdir -p $(TOOLS)
	cd tools && $(GO) build -o $(CURDIR)/$@ google.golang.org/grpc/cmd/protoc-gen-go-grpc
$(TOOLS)/staticcheck: tools/go.mod
	@mkdir -p $(TOOLS)
	cd tools && $(GO) build -o $(CURDIR)/$@ honnef.co/go/tools/cmd/staticcheck

.PHONY: check-fmt
check-fmt:
	@bad=$$(gofmt -l $$(git ls-files '*.go')); [ -z "$$bad" ] || { echo "not formatted (run make fmt):"; echo "$$bad"; exit 1; }

.PHONY: check-proto
check-proto: proto ## fail if generated code is out of date
	@git diff --exit-code --stat -- proto || { echo "generated code is out of date: commit what make proto wrote"; exit 1; }

.PHONY: arch
arch: ## the import rules
	$(GO) test -count=1 ./internal/arch

.PHONY: check-static
check-static: check-fmt lint arch check-proto ## everything that is checked without running the product

.PHONY: check
check: check-static test ## what CI runs

.PHONY: clean
clean: ## remove what make made
	rm -rf $(BIN) .tmp
