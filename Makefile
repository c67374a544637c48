# Every target sets itself up: Python 3.11 to 3.13 and make are all that a machine needs.
#
#   make demo     the whole path on real flights, ending with the verdict
#   make test     lint, then every test        PYTEST_ARGS="-k layout" narrows it
#   make lint     ruff, mypy and the import-direction check
#   make format   rewrite the code the way that lint wants it
#   make bench    speed against the bars       BENCH_ARGS="pit --scale 1" is passed through
#   make lock     resolve requirements.lock    UV_ARGS=--upgrade renews every pin
#   make clean    remove all that make and the tools created
#
# PYTHON=/path/to/python3.12 chooses the interpreter of the virtual environment.

PYTHON ?= python3
PYTEST_ARGS ?=
BENCH_ARGS ?=
UV_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
# The stamp names the interpreter, so that another PYTHON= makes the environment anew.
READY := $(VENV)/.ready-$(subst /,-,$(PYTHON))
LOWEST := .venv-lowest
BENCH := .venv-bench

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo test lint format bench lock test-lowest clean

help:
	@sed -n '/^#/!q;s/^# \{0,1\}//p' Makefile

setup: $(READY)

demo: $(READY)
	@$(BIN)/featurestore demo flights

# pytest comes last, so that its summary is the last thing to read.
test: lint
	$(BIN)/python -m pytest -n 2 $(PYTEST_ARGS)

lint: $(READY)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy
	$(BIN)/python -m tests.layout.import_direction

format: $(READY)
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

# Feast has an environment of its own, which BENCH_ARGS=--no-feast does without.
bench: $(READY) $(if $(findstring --no-feast,$(BENCH_ARGS)),,$(BENCH)/.ready)
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

lock: $(READY)
	$(BIN)/python -m uv pip compile --quiet --universal --python-version 3.11 --no-annotate \
	    --custom-compile-command "make lock" --all-extras $(UV_ARGS) \
	    --output-file requirements.lock pyproject.toml

# The oldest releases that pyproject.toml admits must pass too.
test-lowest: $(READY)
	$(BIN)/python -m uv venv --quiet --clear --python $(BIN)/python $(LOWEST)
	$(BIN)/python -m uv pip install --quiet --python $(LOWEST) --resolution lowest-direct --editable '.[dev]'
	$(LOWEST)/bin/python -m pytest -n 2 $(PYTEST_ARGS)

clean:
	rm -rf $(VENV) $(LOWEST) $(BENCH) build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BENCH)/.ready: pyproject.toml | $(READY)
	@echo "Setting up $(BENCH) with Feast (once)"
	@$(BIN)/python -m uv venv --quiet --clear --python $(BIN)/python $(BENCH)
	@$(BIN)/python -m uv pip install --quiet --python $(BENCH) --group bench
	@touch $@

# The stamp is written last, so an interrupted set-up starts again and a finished one costs nothing.
# uv installs in seconds; where it cannot reach an index that pip is configured for, pip does the same work.
$(READY): requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null 2>&1 || { \
	    echo "make: '$(PYTHON)' was not found: install Python 3.11, 3.12 or 3.13," \
	         "or name one: make $(MAKECMDGOALS) PYTHON=/path/to/python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
	    echo "make: '$(PYTHON)' is $$($(PYTHON) --version 2>&1), but featurestore needs Python 3.11, 3.12 or 3.13:" \
	         "name one: make $(MAKECMDGOALS) PYTHON=/path/to/python3.12" >&2; exit 1; }
	@echo "Setting up $(VENV) with $$($(PYTHON) --version 2>&1) (once)"
	@$(PYTHON) -m venv --clear $(VENV) || { \
	    echo "make: '$(PYTHON)' cannot create virtual environments (on Debian and Ubuntu: apt install python3-venv)" >&2; \
	    exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	    "$$(sed -n 's/^\(uv==[^ ;]*\).*/\1/p' requirements.lock)"
	@$(BIN)/python -m uv pip install --quiet --python $(BIN)/python --requirement requirements.lock || \
	    $(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@
