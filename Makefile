# What a person types. Everything works on Debian 12 with Swift, make, python3, pip and apt.

SHELL := /bin/sh
.DEFAULT_GOAL := help

SWIFT ?= swift
PYTHON ?= python3
APUS := .build/release/apus
# Left by a failed installation of oneDNN, which is optional, so that it is not tried on every run.
LIBRARIES_STAMP := .build/libraries-skipped
# Without testable imports, which no test uses, tests and command share one build.
TEST_FLAGS := -c release --disable-testable-imports
CLIENTS := .build/clients
SOURCES := Package.swift $(shell find Sources -type f)

# The text as typed: not expanded by make, and passed through the environment, not through quotes.
override PROMPT := $(if $(value PROMPT),$(value PROMPT),Why is the sky blue?)
export PROMPT
PORT ?= 8000

.PHONY: help run chat train compare teach build model libraries test lint swift-test script-test command-test sanitize fuzz bench clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: build  ## serve the embedded model, ask it over the API, and go on serving: make run PROMPT="..." PORT=8000
	@model=$$($(PYTHON) Scripts/fetch_model.py) && \
	    exec $(APUS) serve "$$model" --port $(PORT) --log-level warning --ask "$$PROMPT"

chat: build  ## talk with the embedded model
	@model=$$($(PYTHON) Scripts/fetch_model.py) && exec $(APUS) chat "$$model"

build: model $(APUS)  ## build the command line for release: .build/release/apus

model:  ## fetch the embedded model into the cache folder
	@Scripts/system_libraries.sh $(LIBRARIES_STAMP)
	@$(PYTHON) Scripts/fetch_model.py >/dev/null

libraries:  ## install the missing system libraries
	@rm -f $(LIBRARIES_STAMP)
	@Scripts/system_libraries.sh $(LIBRARIES_STAMP)

# Skipping an up-to-date build here, rather than in swift build, saves seconds on every run.
$(APUS): $(SOURCES)
	@$(SWIFT) build -c release --product apus >&2
	@touch $@

train: build  ## train a small GLA model on the shipped books for about a minute, and let it write
	@$(APUS) train Examples/recipes/gla.yaml --restart
	@model=$$(ls -d runs/gla/checkpoints/step-* | tail -n 1) && for seed in 1 2; do \
	    $(APUS) generate "$$model" --raw --temperature 0.8 --seed $$seed -n 60 --quiet -- "The old house" || exit; \
	    echo; done

compare: build  ## train the six attention variants on the shipped books and draw them side by side
	@$(APUS) compare Examples/recipes/compare.yaml

teach: build  ## train small reward models on the shipped preferences, and measure which of them teaches a small policy best
	@$(APUS) reproduce reward-teaching --quick

test: lint script-test command-test swift-test  ## lint, build and run every test

lint:  ## check the format of the Swift sources
	$(SWIFT) format lint --strict --parallel --recursive Sources Tests Package.swift

script-test: $(CLIENTS)  ## check and test the scripts, and GPU kernels on a CPU
	@Scripts/system_libraries.sh $(LIBRARIES_STAMP) test
	shellcheck Scripts/*.sh Fuzz/*.sh .ci/run deploy/slurm/*.sbatch
	$(PYTHON) -m unittest discover -s Tests/Scripts -v
	PYTHONPATH="$(CLIENTS)" $(PYTHON) Scripts/unittests.py Tests/Emulation

command-test: build $(CLIENTS)  ## build and run the tests of the command line
	model=$$($(PYTHON) Scripts/fetch_model.py) && APUS_TEST_MODEL="$$model" PYTHONPATH="$(CLIENTS)" \
	    $(PYTHON) -m unittest discover -s Tests/Commands -v

# What tests use, the server's clients among it, apart from the system's packages.
$(CLIENTS): Tests/Commands/requirements.txt
	@rm -rf $@
	@$(PYTHON) -m pip install -q --disable-pip-version-check --root-user-action ignore --target $@ -r $< 2>/dev/null
	@touch $@

swift-test:  ## build and run the Swift tests for release
	@Scripts/system_libraries.sh $(LIBRARIES_STAMP)
	model=$$($(PYTHON) Scripts/fetch_model.py) && APUS_TEST_MODEL="$$model" $(SWIFT) test $(TEST_FLAGS)

# Each sanitizer has its own build. Thread sanitizer needs lld with the toolchain of Debian. Some tests ask for more memory
# than there is: that must fail as it does without the sanitizers.
sanitize: export ASAN_OPTIONS = allocator_may_return_null=1
sanitize: export TSAN_OPTIONS = allocator_may_return_null=1
sanitize:  ## run the Swift tests under the address and the thread sanitizer: FILTER=Suite for a part
	$(SWIFT) test --sanitize=address --scratch-path .build-asan $(TEST_FLAGS) $(if $(FILTER),--filter "$(FILTER)")
	$(SWIFT) test --sanitize=thread -Xswiftc -use-ld=lld --scratch-path .build-tsan $(TEST_FLAGS) \
	    $(if $(FILTER),--filter "$(FILTER)")

fuzz:  ## fuzz the parsers of foreign files and chat templates, SECONDS=60 each; found inputs are kept in Fuzz/corpus
	@Fuzz/build.sh
	@Fuzz/run.sh $(or $(SECONDS),60)

bench: build  ## measure the embedded model; against llama.cpp with PEER=folder of llama-bench
	@model=$$($(PYTHON) Scripts/fetch_model.py) && \
	    $(PYTHON) Benchmarks/peers.py $(if $(PEER),--peer "$(PEER)") "$$model"

clean:  ## remove what was built (the model stays in the cache folder)
	rm -rf .build .build-asan .build-tsan .build-fuzz fuzz-out
