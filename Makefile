# `make demo` and `make test` need a python3 of 3.11 or newer and nothing else: all there is goes
# into .venv, once.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
TORCH := $(shell sed -n 's/.*"\(torch==[^"]*\)".*/\1/p' pyproject.toml | head -n 1)

ENGINE_ANSWERS := docker info >/dev/null 2>&1 && docker compose version >/dev/null 2>&1

.PHONY: demo test test-containers check clean

demo: $(VENV)/.installed
	@$(BIN)/python -m examples.tiny.demo

# Container tests build images and take minutes: only where they can, and after everything else.
test: check
	$(BIN)/python -m pytest -q
	@if $(ENGINE_ANSWERS); then $(MAKE) --no-print-directory test-containers; \
	else echo "Container tests: LEFT OUT, for no Docker engine with Compose answers here."; fi

# Needs a Docker engine with Compose. The manifests are checked where there is `kubectl`.
test-containers: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -q --durations=10 tests/containers tests/deploy

check: $(VENV)/.installed-dev
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy common services examples benchmarks
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Torch first: it is by far the largest, and an index that has it smaller can be named for it alone.
$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
		|| { echo "Glinthawk needs Python 3.11 or newer: make PYTHON=/path/to/python3" >&2; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }
	@echo "Installing into $(VENV); the first time takes minutes."
	@$(INSTALL) $(TORCH)
	@$(INSTALL) --editable '.[all]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@$(INSTALL) --editable '.[all,dev]'
	@touch $@
