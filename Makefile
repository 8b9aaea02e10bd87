# Everything a person runs by hand. `make demo` and `make test` need only Python and make: they set up the rest themselves.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo test check bench soak lock clean

PYTHON ?= python3
UV_VERSION := 0.13.9
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO ?= demo-out
JOBS ?= 2
export SAM2_BUILD_CUDA := 0
# One thread a process: the suite and the demo run a process a core.
SINGLE := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1

help: ## this list
	@awk -F':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' Makefile

# uv from the PATH if there is one, else from PyPI into a folder of its own.
.tools/uv:
	@mkdir -p .tools
	@if command -v uv >/dev/null; then ln -sf "$$(command -v uv)" .tools/uv; \
	else echo "Fetching uv $(UV_VERSION)"; \
	  $(PYTHON) -m pip install --quiet --disable-pip-version-check --target .tools/site "uv==$(UV_VERSION)"; \
	  ln -sf site/bin/uv .tools/uv; fi

$(READY): requirements/dev.txt pyproject.toml .python-version | .tools/uv
	@echo "Setting up $(VENV) (about two minutes the first time)"
	@[ -x $(BIN)/python ] || .tools/uv venv --quiet $(VENV)
	@VIRTUAL_ENV=$(VENV) .tools/uv pip sync --quiet requirements/dev.txt
	@VIRTUAL_ENV=$(VENV) .tools/uv pip install --quiet --no-deps --editable .
	@touch $(READY)

demo: $(READY) ## synthetic cohort: extract, verify, cross-validate, report (about 5 minutes)
	@$(SINGLE) PATH="$(CURDIR)/$(BIN):$$PATH" tests/e2e/demo.sh "$(DEMO)"

test: $(READY) ## every test; real data where ENGRAM_REAL_DATA names it
	$(SINGLE) $(BIN)/pytest -n $(JOBS) --dist worksteal -m "not bench and not soak" $(ARGS)

check: $(READY) ## ruff, mypy --strict, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY) ## measurements; results go into tests/benchmarks/RESULTS.md by hand, with date and command
	$(BIN)/pytest -m bench -s $(or $(ARGS),tests/benchmarks)

soak: $(READY) ## long proofs: calibration over many seeds, many kills
	$(SINGLE) $(BIN)/pytest -m soak -s --timeout 0 $(or $(ARGS),tests)

lock: | .tools/uv ## hash-pinned locks, one per extra, without index addresses
	for extra in extractor trainer service dev; do \
	  .tools/uv pip compile --quiet pyproject.toml --extra $$extra --generate-hashes --no-emit-index-url \
	    --python-version 3.12 --custom-compile-command "make lock" -o requirements/$$extra.txt; done
	.tools/uv pip compile --quiet deploy/docker/build.in --generate-hashes --no-emit-index-url \
	  --python-version 3.12 --custom-compile-command "make lock" -o deploy/docker/build.txt

clean: ## remove the environment and all output
	rm -rf $(VENV) .tools $(DEMO) soak-out .pytest_cache .mypy_cache .ruff_cache
