# The loop: install, check, test, up. Every target works from a fresh clone; CI runs the same ones.
SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
SEEDS ?= 0..99

# Where compiled modules may not be kept, each of the hundreds of processes that tests start would compile Warmlane anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: install up test test-all check protos protos-baseline format bench simulate clean

install: $(VENV)/.installed

# The stamp depends on what decides the environment, so `make up` after a pull installs what is missing.
$(VENV)/.installed: pyproject.toml constraints.txt package.json
	@"$(PYTHON)" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info[:2] != (3, 11))' || { echo "Warmlane needs Python 3.11 with venv. Install it (Debian: apt-get install python3.11-venv), or name it: make install PYTHON=/path/to/python3.11"; exit 1; }
	test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt hatchling editables
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-build-isolation -e '.[all]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $$($(BIN)/python -c "import tomllib; print(*tomllib.load(open('pyproject.toml','rb'))['dependency-groups']['dev'])")
	@if command -v npm >/dev/null; then npm install --no-package-lock --no-audit --no-fund --loglevel=error; else echo "npm was not found: 'make check' needs it for buf, and one test of the pages for axe; everything else works without it."; fi
	touch $@

up: install
	$(BIN)/warmlane up

# Two processes: one has the tests of a running stack, the other those that mostly wait; then both share the rest.
test: install
	$(BIN)/python -m pytest -n 2 --dist loadscope --no-loadscope-reorder

# The long forms too.
test-all: install
	$(BIN)/python -m pytest -m "long or not long"

# Stops at the first thing that is wrong. Order: what fails fastest comes first.
check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	node_modules/.bin/buf lint protos
	node_modules/.bin/buf breaking protos --against protos/baseline.binpb
	PATH="$(CURDIR)/$(BIN):$$PATH" protos/generate.sh --check
	$(BIN)/lint-imports
	$(BIN)/mypy

# Generated code is committed, so that an install needs no compiler; `make check` fails when it is stale.
protos: install
	PATH="$(CURDIR)/$(BIN):$$PATH" protos/generate.sh

# The wire contract that `make check` compares with: renewed at a release only.
protos-baseline: install
	node_modules/.bin/buf build protos -o protos/baseline.binpb

# What a decision, a durable acceptance over gRPC and over HTTP, its metrics, log lines and traces, open event streams, a gallery of a million tasks and a newcomer's first clips cost; ratios measured in one run.
bench: install
	$(BIN)/python -m benchmarks.core_decisions
	$(BIN)/python -m benchmarks.admission_speed
	$(BIN)/python -m benchmarks.http_speed
	$(BIN)/python -m benchmarks.store_scale
	$(BIN)/python -m benchmarks.first_clips

# Seeded histories of the real admission with lanes, callers and crashes in virtual time; a failing seed prints its story. SEEDS="a..b --shrink" shortens it.
simulate: install
	$(BIN)/python -m tests.simulation.simulate $(SEEDS)

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) node_modules .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
