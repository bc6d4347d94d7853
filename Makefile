# Every target makes what it needs: the environment .venv, and in it the package with the extras the target uses.
# A stamp file for each set of extras, older than pyproject.toml or absent, means: run pip again.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# The libraries that the benchmarks compare with stay out of the environment of the package.
BENCH_VENV ?= .venv-bench
BENCH_PEERS := lightly kornia pytorch-metric-learning torchvision
BENCH_OPTIONS ?=

SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test bench bench-accuracy lint docs format format-check ruff contracts clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: $(STAMP)-plot ## Pretrain on embedded images, compare label fractions, write the figures into demo/
	$(BIN)/python examples/plot_label_fractions.py --output-dir demo

test: $(STAMP)-test ## Run the tests and the doctests of the package
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --doctest-modules tests sklearn_simclr

bench: $(BENCH_VENV)/.installed ## Measure beside other libraries, about 15 minutes; write docs/benchmarks/
	$(BENCH_VENV)/bin/python examples/benchmarks/run.py --out docs/benchmarks $(BENCH_OPTIONS)

bench-accuracy: $(BENCH_VENV)/.installed ## Accuracy for the time of training beside lightly, 75 minutes; write docs/benchmarks/
	$(BENCH_VENV)/bin/python examples/benchmarks/accuracy.py --out docs/benchmarks $(BENCH_OPTIONS)

lint: ruff format-check contracts ## Check style, formatting, the rooms and the docstrings

docs: $(STAMP)-docs ## Build the documentation into docs/_build/html
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

format: $(STAMP)-lint ## Reformat the code and sort its imports
	$(BIN)/ruff check --select I --fix .
	$(BIN)/ruff format .

ruff: $(STAMP)-lint ## Part of lint: ruff's rules
	$(BIN)/ruff check .

format-check: $(STAMP)-lint ## Part of lint: formatting
	$(BIN)/ruff format --check .

contracts: $(STAMP)-lint ## Part of lint: direction of imports, docstrings
	$(BIN)/python -m pytest -q tests/test_rooms.py tests/test_docstrings.py

clean: ## Remove what the other targets wrote, except the environment
	rm -rf demo build dist docs/_build docs/auto_examples docs/generated docs/sg_execution_times.rst
	rm -rf .pytest_cache .ruff_cache .hypothesis
	find sklearn_simclr tests examples docs -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(BENCH_VENV)/.installed: pyproject.toml
	test -x $(BENCH_VENV)/bin/python || $(PYTHON) -m venv $(BENCH_VENV)
	$(BENCH_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -e ".[plot]" $(BENCH_PEERS)
	@touch $@

$(STAMP)-%: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[$*]"
	@touch $@
