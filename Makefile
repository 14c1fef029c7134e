# Everything a newcomer needs: `make quickstart` and `make test` each work alone on a fresh clone.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install quickstart test test-slow lint format benchmark clean

install: .venv/installed

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

quickstart: .venv/installed
	$(BIN)/titanlab sweep run sweeps/quickstart.yaml
	$(BIN)/titanlab sweep report sweeps/quickstart.yaml

test: .venv/installed
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m 'not gpu and not slow'

test-slow: .venv/installed
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m 'slow and not gpu'

lint: .venv/installed
	test ! -e platform/__init__.py
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

benchmark: .venv/installed
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	$(BIN)/python -m titanlab.benchmarks

clean:
	rm -rf .venv build dist *.egg-info src/*.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
