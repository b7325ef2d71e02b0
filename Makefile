# make demo        train a small digit classifier, certify it, leave figures in demo_output/
# make test        run the tests that every change has to pass, in about 5 minutes
# make test-slow   run the others, which are marked as slow
# make test-all    run all tests
# make lint        formatter and linter, changing nothing
# make format      formatter and linter, changing files
# make typecheck   mypy
# make docs        build the documentation as a site: open docs_output/html/index.html
# make docs-links  ask for every address that the documentation links to; needs a network
# make bazel       write Bazel's BUILD files from the modules' imports
# make clean       remove the environment and what the targets wrote
#
# Each target first makes its own environment in .venv: only Python 3.11 to 3.13 and make are
# needed. Choose the interpreter with `make PYTHON=python3.12 test`, a subset of the tests with
# `make test ARGS="-k regions"`.

PYTHON ?= python3
VENV ?= .venv
ARGS ?=

BIN := $(VENV)/bin
# "3.11" and the like: another interpreter makes a new environment.
VERSION := $(shell $(PYTHON) -c "import sys; print('%d.%d' % sys.version_info[:2])")
ifeq ($(VERSION),)
$(error `$(PYTHON)` does not run. Name an interpreter: make PYTHON=python3.12 $(MAKECMDGOALS))
endif

RUN_STAMP := $(VENV)/.installed-$(VERSION)
TEST_STAMP := $(VENV)/.installed-test-$(VERSION)
DOCS_STAMP := $(VENV)/.installed-docs-$(VERSION)

.PHONY: help demo test test-slow test-all lint format typecheck docs docs-links bazel BUILD \
  clean

help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' Makefile

demo: $(RUN_STAMP)
	$(BIN)/python trainers/demo.py --out=demo_output $(ARGS)

# The tests keep one core busy nearly all of the time, hence a process per core; what XLA compiled
# stays, and two of them have 4 to 7 GB each in the end, hence not more than 4.
# `make test ARGS="-n 0"` runs them in one process.
# Compiled modules are kept whatever the environment says: each process would compile all of them.
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n auto --maxprocesses=4 --dist=worksteal

test: $(TEST_STAMP)
	$(PYTEST) -m "not slow" $(ARGS)

test-slow: $(TEST_STAMP)
	$(PYTEST) -m slow $(ARGS)

test-all: $(TEST_STAMP)
	$(PYTEST) $(ARGS)

lint: $(TEST_STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

format: $(TEST_STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

typecheck: $(TEST_STAMP)
	$(BIN)/mypy

# A warning, such as a link that leads nowhere, ends the build.
SPHINX := $(BIN)/python -m sphinx -c docs -d docs_output/doctrees -q -W --keep-going

docs: $(DOCS_STAMP)
	$(SPHINX) -b html . docs_output/html $(ARGS)
	@echo "Open docs_output/html/index.html."

docs-links: $(DOCS_STAMP)
	$(SPHINX) -b linkcheck . docs_output/links $(ARGS)

# The second name is the older one.
bazel BUILD:
	$(PYTHON) tests/update_build.py

# An environment of the same Python is kept and brought up to date; one of another is replaced.
$(RUN_STAMP): pyproject.toml
	@case "$(VERSION)" in 3.11|3.12|3.13) ;; *) \
	  echo "tfcert needs Python 3.11, 3.12 or 3.13; \`$(PYTHON)\` is $(VERSION)." \
	       "Try: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1;; esac
	@test -x $(BIN)/python$(VERSION) || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --editable .
	@touch $@

$(TEST_STAMP): $(RUN_STAMP)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --editable ".[test,dev,docs]"
	@touch $@

$(DOCS_STAMP): $(RUN_STAMP)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --editable ".[docs]"
	@touch $@

# Not `build`: where upper and lower case are the same to the disk, that is Bazel's BUILD.
clean:
	rm -rf $(VENV) .build dist *.egg-info demo_output docs_output docs/reference .mypy_cache .pytest_cache .ruff_cache .hypothesis
