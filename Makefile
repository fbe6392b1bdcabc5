# Everything here starts from a Python of 3.11 or later, pip and make. `make` alone prints what there is.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

# The first Python that is new enough; `make PYTHON=/path/to/python3 test` takes another.
PYTHON ?= $(shell for python in python3.13 python3.12 python3.11 python3 python; do \
	"$$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 \
	&& { echo "$$python"; break; }; done)

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
LOCK := requirements.lock
JOBS ?= 2
FLAGS ?=

# Compiled bytecode makes `import jax` three times as fast: undo a setting that forbids it.
export PYTHONDONTWRITEBYTECODE :=

# Where pip has been told of a folder of packages or of another index, uv is told the same.
comma := ,
space := $(subst ,, )
ifneq ($(strip $(PIP_FIND_LINKS)),)
export UV_FIND_LINKS ?= $(subst $(space),$(comma),$(strip $(PIP_FIND_LINKS)))
endif
ifneq ($(strip $(PIP_INDEX_URL)),)
export UV_DEFAULT_INDEX ?= $(PIP_INDEX_URL)
endif
ifneq ($(strip $(PIP_NO_INDEX)),)
export UV_NO_INDEX ?= 1
endif

.PHONY: help demo test learn bench bench-peers bench-floor bench-page lint format docs lock clean

help: ## print this
	@echo "make TARGET, where TARGET is one of"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' Makefile | expand -t 16

demo: $(READY) ## train QMIX, VDN and IQL, compare them, and play in PettingZoo's environment (under five minutes)
	$(BIN)/python examples/demo.py

test: $(READY) ## run the tests (not the slow learning checks)
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m "not learn" $(FLAGS)

learn: $(READY) ## run the slow learning checks
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m learn $(FLAGS)

bench: $(READY) ## measure speed on this machine; tables go to bench/results/ (FLAGS="--quick --only stepping,...")
	$(BIN)/python bench/run.py $(FLAGS)

bench-peers: .venv-peers/.ready ## the same with other libraries beside it, in an environment of its own
	.venv-peers/bin/python bench/run.py $(FLAGS)

bench-floor: $(READY) ## measure speed against references in the same run, and record it for the test in bench/floor.json
	$(BIN)/python bench/floors.py --write

bench-page: $(READY) ## write the tables of docs/speed.md anew from bench/results/latest.json
	$(BIN)/python bench/report.py

lint: $(READY) ## check format, rules and types
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/basedpyright

format: $(READY) ## format the code, and mend what can be mended
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

docs: $(READY) ## write the tables of README.md and docs/ anew from the sources
	$(BIN)/python docs/tables.py

lock: $(BIN)/uv ## resolve the dependencies of pyproject.toml anew into requirements.lock
	$(BIN)/uv pip compile --quiet --upgrade --universal --no-header --no-annotate --no-emit-index-url --no-emit-find-links \
		--python-version 3.11 --extra envs --extra track --group dev pyproject.toml --output-file $(LOCK)

clean: ## remove what was installed and cached; runs/ stays
	rm -rf $(VENV) .venv-peers .pytest_cache .ruff_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/uv:
	@test -n "$(PYTHON)" || { echo "No Python of 3.11 or later (with venv) was found; name one: make PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv

$(READY): $(LOCK) pyproject.toml | $(BIN)/uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode -r $(LOCK)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -e .
	@touch $@

.venv-peers/.ready: $(LOCK) pyproject.toml | $(BIN)/uv
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python .venv-peers
	$(BIN)/uv pip install --quiet --python .venv-peers/bin/python --compile-bytecode --constraint $(LOCK) -e '.[peers]'
	@touch $@
