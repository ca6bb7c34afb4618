# detkit's chores. Each target works in a fresh clone: what it needs, it makes first.

PYTHON ?= python3
PIP_FLAGS = -qq --disable-pip-version-check
PHOTOS = tests/data/photos
PARALLEL = -n auto --maxprocesses 4 --dist worksteal

.PHONY: help setup demo test test-all lint format bench clean
.DEFAULT_GOAL := help

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' Makefile

setup: .venv/.stamp ## .venv with everything: training, tests, linters

.venv/.stamp: pyproject.toml
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	@echo "installing detkit with the train and dev extras into .venv: PyTorch is large, this takes a minute or more"
	.venv/bin/python -m pip install $(PIP_FLAGS) --editable '.[train,dev]'
	@touch $@

.venv-demo/.stamp: pyproject.toml
	test -x .venv-demo/bin/python || $(PYTHON) -m venv .venv-demo
	.venv-demo/bin/python -m pip install $(PIP_FLAGS) --editable .
	@touch $@

demo: .venv-demo/.stamp ## find objects in the sample photos, with the core install only
	.venv-demo/bin/detkit detect $(PHOTOS) --out out/demo
	@echo "annotated pictures: $(CURDIR)/out/demo"

test: setup ## the tests, without the slow ones
	.venv/bin/python -m pytest -q $(PARALLEL) --durations=10

test-all: setup ## every test
	.venv/bin/python -m pytest -q $(PARALLEL) --durations=10 -m ''

lint: setup ## ruff and mypy
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

format: setup ## let ruff format the code
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

bench: setup ## every benchmark in tests/bench
	.venv/bin/python -m tests.bench

clean: ## remove what these targets made, environments included
	rm -rf .venv .venv-demo out build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find detkit tests -name __pycache__ -prune -exec rm -rf {} +
