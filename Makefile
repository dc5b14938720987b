# Everything on a fresh machine with Python 3.11 or newer: the targets make .venv, install into it and run.
PYTHON ?= python3
BIN := .venv/bin
WORKERS ?= 2

.PHONY: demo test lint tests slow docs clean

demo: .venv/.demo-ready
	$(BIN)/stochseg demo

test: .venv/.ready lint tests

lint: .venv/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

tests: .venv/.ready
	$(BIN)/pytest -n $(WORKERS)

slow: .venv/.ready
	$(BIN)/pytest -m slow

docs: .venv/.docs-ready
	$(BIN)/zensical build --strict --clean

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is older than Python 3.11; name a newer one: make PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv .venv

.venv/.demo-ready: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/pip install -q -c constraints.txt -e .
	touch $@

.venv/.ready: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/pip install -q -c constraints.txt -e '.[dev,tensorboard,medical,serve,export,hub,docs]'
	touch $@ .venv/.demo-ready .venv/.docs-ready

.venv/.docs-ready: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/pip install -q -c constraints.txt -e '.[docs]'
	touch $@

clean:
	rm -rf .venv site .mypy_cache .ruff_cache .pytest_cache
