# `make demo` and `make test` need Python 3.11+, make and a package index; the rest is made here, in $(VENV).
# Another interpreter:  make test PYTHON=python3.13 VENV=.venv-3.13
# Some tests:           make test ARGS='tests/unit -k fold'

PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
ARGS ?=
UV_VERSION := 0.13.8

RUN := $(VENV)/bin/python -m
SYNC = $(VENV)/bin/uv sync --quiet --frozen --inexact --python $(VENV)/bin/python --extra cli

export UV_PROJECT_ENVIRONMENT := $(VENV)
export UV_PYTHON_DOWNLOADS := never
export UV_SYSTEM_CERTS ?= 1
unexport VIRTUAL_ENV UV_PYTHON

.PHONY: help demo test check lint types format soak bench clean

help:
	@echo "make demo     see it work: a crawl that is killed, and resumes (under a minute)"
	@echo "make test     the tests"
	@echo "make check    what CI runs: lint, types, then the tests with layers, documents and links"
	@echo "make format   put the sources in shape"
	@echo "make soak     the long tests: every fault, many times over"
	@echo "make bench    measure against dict and against other stores"
	@echo "make clean    remove the environment and the caches"

demo: $(VENV)/ready-demo
	@$(VENV)/bin/holdfast demo $(ARGS)

test: $(VENV)/ready-dev
	$(RUN) pytest -n $(JOBS) $(ARGS)

check: lint types test

lint: $(VENV)/ready-dev
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	env -u UV_DEFAULT_INDEX -u UV_INDEX -u UV_INDEX_URL $(VENV)/bin/uv lock --quiet --check --offline

types: $(VENV)/ready-dev
	$(RUN) mypy

format: $(VENV)/ready-dev
	$(RUN) ruff check --fix .
	$(RUN) ruff format .

soak: $(VENV)/ready-dev
	$(RUN) pytest -m soak --timeout 3600 --hypothesis-profile soak $(ARGS)

bench: $(VENV)/ready-bench
	$(RUN) benchmarks $(ARGS)

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache

# One environment; each stamp says what is in it, and is older than the lock when that has changed.
$(VENV)/ready-demo: $(VENV)/uv-$(UV_VERSION) uv.lock pyproject.toml
	$(SYNC) --no-default-groups
	@touch $@

$(VENV)/ready-dev: $(VENV)/uv-$(UV_VERSION) uv.lock pyproject.toml
	$(SYNC) --group dev
	@touch $@

$(VENV)/ready-bench: $(VENV)/uv-$(UV_VERSION) uv.lock pyproject.toml
	$(SYNC) --group dev --group bench
	@touch $@

$(VENV)/uv-$(UV_VERSION):
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Holdfast needs Python 3.11 or newer and $(PYTHON) is %d.%d: name another, as in  make PYTHON=python3.12 test" % sys.version_info[:2])'
	@echo "Making the environment $(VENV), once"
	$(PYTHON) -m venv $(VENV)
	$(RUN) pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@touch $@
