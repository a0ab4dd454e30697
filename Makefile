# Every target builds its own .venv on first use; nothing but python3 (3.11 or newer) and make is needed.
# `make help` prints the lines that have two hashes.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

# of `make test` and `make faults`: a fast path that is off, of tests/fast_paths.py
WITHOUT = $(OFF:%=--off=%)

# Tests wait more than they work: two of them for each processor (JOBS=0 runs them one after another, in one process)
JOBS   = $(shell echo $$((2 * $$(nproc))))
PYTEST = $(BIN)/python -m pytest tests -n $(JOBS) --dist worksteal

# of `make test`: how many of a hundred answers of the database get lost, of tests/lost_answers.py
LOSING = $(LOST:%=--lost=%)

# of `make bench`: lines and options of damad bench, and the power of ten of the events in the largest log
OPTIONS = $(BENCH) $(if $(GROWTH),--growth $(GROWTH))

.PHONY: help install demo test faults mutants bench bench-peers check docs wheel clean
.DEFAULT_GOAL := help

help: ## Print this
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /|/' | awk -F'|' '{printf "  make %-11s %s\n", $$1, $$2}'

install: $(READY) ## Build the environment: damad, the embedded Postgres, the tools of its developers

$(READY): pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: $(READY) ## From nothing: embedded Postgres, daemon, a real GTFS feed loaded, its events live, a summary
	@PATH="$(CURDIR)/$(BIN):$$PATH" bash workers/demo.sh

test: $(READY) ## The whole fast suite: real Postgres, real processes, from nothing
	@$(PYTEST) $(WITHOUT) $(LOSING)

faults: $(READY) ## Everything breaks that can, and what must hold holds; writes docs/reliability.md
	@$(PYTEST) -m fault -o "norecursedirs=bench browser systemd .*" --page docs/reliability.md $(WITHOUT)

mutants: $(READY) ## Each guard is taken away once, and the test that stands for it must go red (minutes)
	@$(BIN)/python tests/mutants/run.py

bench: $(READY) ## How fast damad is beside what this machine can do, some ten minutes; writes docs/performance.md (BENCH="drain --quick", GROWTH=7)
	@$(BIN)/python tests/bench/run.py -- $(OPTIONS)

bench-peers: $(READY) ## The same, and before it the peers on the same Postgres, where their bench lies beside the checkout
	@$(BIN)/python tests/bench/run.py --peers $(PEERS) -- $(OPTIONS)

check: $(READY) ## Style, types, layers, docs
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo 2>/dev/null || $(BIN)/lint-imports
	@$(BIN)/python -m pytest tests/test_docs.py tests/test_house.py

docs: $(READY) ## Write again what is made from the code: docs/lifecycle.md
	@$(BIN)/python tests/lifecycle_page.py > docs/lifecycle.md

wheel: $(READY) ## Build the wheel into dist/ and try it in an empty environment outside the checkout
	@PYTHON=$(CURDIR)/$(BIN)/python bash tests/try_wheel.sh

clean: ## Remove what the other targets made
	@rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
