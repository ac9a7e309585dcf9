# Everything people type. CARGO_TARGET_DIR and ISTHMUS_CACHE are respected; builds that outlive a clone go to the latter.
SHELL := /bin/bash
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules
.PHONY: help demo demo-down test unit e2e bench conformance lint dist packages devcluster

TARGET := $(or $(CARGO_TARGET_DIR),target)
# Their names are the files and folders in e2e/tests. They wait more than they work: two at a time, the longest first, so that
# no long one is left alone at the end. What one says is told when it has ended.
STORY_FLAGS := -p e2e --features stories --no-fail-fast
STORIES_AT_ONCE ?= 2
LONG_STORIES := keadm_join upgrade_power_cut install chart durability device_storm
ALL_STORIES := $(LONG_STORIES) $(filter-out $(LONG_STORIES),$(sort $(basename $(notdir $(wildcard e2e/tests/*.rs))) \
	$(notdir $(patsubst %/main.rs,%,$(wildcard e2e/tests/*/main.rs)))))
SHIPPED := cloudcore edgecore keadm mapper-virtual mapper-modbus mapper-mqtt mapper-opcua
# FOR=aarch64-unknown-linux-gnu makes what ships for another processor; see docs/packages.md.
SHIPPED_TO := $(TARGET)/$(if $(FOR),$(FOR)/)dist

help:
	@echo 'make demo             from nothing to a running edge node; leaves it running (DEMO_ONCE=1: check and tear down)'
	@echo 'make demo-down        remove every trace of the demo'
	@echo 'make test             everything: unit, then e2e'
	@echo 'make unit             the fast part: no root, cluster, runtime or network'
	@echo 'make e2e STORY=name   one story on a real cluster and runtime, as root (without STORY: all; LONG=1: their full form)'
	@echo 'make bench BENCH=grp  one group of figures into target/bench (without BENCH: all)'
	@echo "make conformance      Kubernetes' own node conformance suite on our node (AGENT=kubelet: on a stock one; AREA=regex: a part)"
	@echo 'make lint             format, clippy, each crate alone, dependencies, go vet'
	@echo 'make dist             the binaries as they ship, and packages and images of them (FOR=target: for another processor)'

# The stories and the demo start these as processes.
.PHONY: binaries
binaries:
	cargo build $(addprefix -p ,$(SHIPPED))

demo: binaries
	cargo run --quiet -p e2e --bin demo

demo-down:
	cargo run --quiet -p e2e --bin demo -- down

test: unit e2e

unit:
	cargo test --workspace

e2e: binaries
	cargo test $(STORY_FLAGS) $(if $(STORY),--test $(STORY),--tests) --no-run
ifdef STORY
	@$(MAKE) --no-print-directory story-$(STORY)
else
	@$(MAKE) --no-print-directory -j$(STORIES_AT_ONCE) --keep-going --output-sync=target $(addprefix story-,$(ALL_STORIES))
endif

story-%:
	@begun=$$(date +%s); cargo test --quiet $(STORY_FLAGS) --test $* -- --test-threads=1 --nocapture && \
		echo "story $* is good after $$(($$(date +%s) - begun)) s"

# The simulated nodes are built as the binaries are, so that the client's share of the machine stays small.
bench: shipped
	cargo build --profile dist -p edgemark
	set -e; for name in cloudcore edgecore keadm edgemark dmimark mapper-modbus; do \
		export ISTHMUS_$$(echo $$name | tr a-z- A-Z_)="$(abspath $(TARGET))/dist/$$name"; done; \
		cargo run --quiet -p e2e --bin bench -- $(BENCH)

# AREA may hold what a shell would take for its own.
conformance:
ifneq ($(AGENT),kubelet)
	cargo build -p cloudcore -p edgecore
endif
	@cargo run --quiet -p e2e --bin conformance -- --agent="$${AGENT:-ours}" --area="$${AREA:-}" --procs="$${PROCS:-4}" $(if $(LONG),--long)

lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --features e2e/stories -- -D warnings
	set -e; for crate in $$(cargo tree --workspace --depth 0 --prefix none | awk 'NF {print $$1}' | sort -u); do \
		echo "alone: $$crate"; cargo check --quiet -p $$crate; done
	cargo test --quiet -p e2e --test architecture --test dependencies
	cd e2e/devcluster && CGO_ENABLED=0 go vet -trimpath ./...

dist: shipped
	@$(MAKE) --no-print-directory packages

.PHONY: shipped
shipped:
	cargo build --profile dist $(if $(FOR),--target $(FOR)) $(addprefix -p ,$(SHIPPED))
	@cd $(SHIPPED_TO) && ls -l $(SHIPPED)

# Of the binaries that are there; REPOSITORY=registry.example/isthmus names the images for a registry of one's own.
packages:
	cargo run --quiet -p pack -- --binaries $(SHIPPED_TO) --out $(TARGET)/packages \
		$(if $(REPOSITORY),--repository $(REPOSITORY)) $(SHIPPED)

devcluster:
	cargo run --quiet -p e2e --bin demo -- build
