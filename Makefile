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
OLDEST_VENV ?= .venv-oldest
PYTHONS ?= 3.11 3.12 3.13
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --doctest-modules tests sklearn_simclr

SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-oldest test-pythons bench bench-accuracy numbers gpu
.PHONY: lint docs format format-check ruff types contracts clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: $(STAMP)-plot ## Pretrain on embedded images, compare label fractions, write the figures into demo/
	$(BIN)/python .ci/demo.py examples/plot_label_fractions.py demo

test: $(STAMP)-test ## Run the tests and the doctests of the package
	$(PYTEST)

# Libraries as old as these are built for the oldest Python that pyproject.toml promises, not for the newest.
# What they say of a future that has come since is no error here, as it is in `make test`.
test-oldest: PYTHON = python3.11
test-oldest: BIN = $(OLDEST_VENV)/bin
test-oldest: $(OLDEST_VENV)/.installed ## Run the tests with the oldest libraries that pyproject.toml promises
	$(PYTEST) $(foreach kind,Deprecation PendingDeprecation Future,-W ignore::$(kind)Warning)

test-pythons: ## Run the tests on every supported Python that is on PATH or kept by pyenv
	@tested=0; for version in $(PYTHONS); do \
	  found=; for python in python$$version $${PYENV_ROOT:-$$HOME/.pyenv}/versions/$$version.*/bin/python; do \
	    if $$python -c "" 2>/dev/null; then found=$$python; break; fi; \
	  done; \
	  if [ -z "$$found" ]; then echo "Python $$version: not found, not tested"; continue; fi; \
	  echo "Python $$version: $$found"; \
	  $(MAKE) test PYTHON=$$found VENV=.venv-$$version || exit; \
	  tested=$$((tested + 1)); \
	done; [ $$tested -gt 0 ]

# Folders with photographs: CIFAR10 has train and in it a folder a class, CLOTHING also validation. Without CIFAR10
# it is downloaded.
CIFAR10 ?=
CLOTHING ?=
SOURCES_IN_TRAIN = $(patsubst %,cifar10=%/train,$(CIFAR10)) $(patsubst %,clothing=%/train,$(CLOTHING))
SOURCES = cifar10$(addprefix =,$(CIFAR10)) $(addprefix clothing=,$(CLOTHING))

bench: $(BENCH_VENV)/.installed ## Compare speed and memory with other libraries, about 15 minutes; write docs/benchmarks/
	$(BENCH_VENV)/bin/python examples/benchmarks/run.py --out docs/benchmarks $(BENCH_OPTIONS)

bench-accuracy: $(BENCH_VENV)/.installed ## Compare accuracy with lightly in equal steps and equal time, 90 minutes; write docs/benchmarks/
	$(BENCH_VENV)/bin/python examples/benchmarks/accuracy.py $(addprefix --folder ,$(CIFAR10)) --settings paper sthalles \
	  --out docs/benchmarks $(BENCH_OPTIONS)
	$(BENCH_VENV)/bin/python examples/benchmarks/accuracy.py $(addprefix --folder ,$(CIFAR10)) --settings paper sthalles \
	  --epochs 36 --times --out docs/benchmarks $(BENCH_OPTIONS)

numbers: $(STAMP)-plot bench bench-accuracy ## Write every table of README and docs anew on this machine, about 6 hours
	$(BIN)/python examples/benchmarks/digits.py
	$(BIN)/python examples/benchmarks/rivals.py $(SOURCES) --out docs/benchmarks --readme README.md
	$(if $(CLOTHING),$(BIN)/python examples/benchmarks/rivals.py clothing_200s=$(CLOTHING) --seconds 200 \
	  --labels 5 all --methods raw HOG untrained SimCLR supervised --out docs/benchmarks)
	$(if $(CIFAR10),$(BIN)/python examples/benchmarks/rivals.py cifar10_times=$(CIFAR10) --seconds 60 200 600 \
	  --methods SimCLR --labels all --seeds 0 1 2 --out docs/benchmarks)
	$(if $(CIFAR10)$(CLOTHING),$(BIN)/python examples/benchmarks/votes.py $(SOURCES) --out docs/benchmarks)
	$(BIN)/python docs/draw_hero.py
	$(BIN)/python examples/benchmarks/kernels.py --out docs/benchmarks
	$(BIN)/python examples/benchmarks/forecast.py --out docs/benchmarks
	$(BIN)/python examples/benchmarks/ranks.py --out docs/benchmarks
	$(BIN)/python examples/benchmarks/sample_complexity.py --out docs/benchmarks
	$(BIN)/python examples/benchmarks/fine_tuning.py digits $(SOURCES_IN_TRAIN) --no-student --draws 1 \
	  --out docs/benchmarks
	$(BIN)/python examples/benchmarks/thresholds.py $(if $(CIFAR10),--folder $(CIFAR10)/train) --out docs/benchmarks
	OMP_NUM_THREADS=1 $(BIN)/python examples/benchmarks/recipe_search.py --seconds 2 \
	  $(if $(CIFAR10),--folder $(CIFAR10)/train) $(if $(CLOTHING),--photographs $(CLOTHING)/train) \
	  --sources $(if $(CLOTHING),"photographs 160") $(if $(CIFAR10),cifar grey) digits places --variants default "optimizer: AdamW" \
	  "learning rate doubled" "batch 128" "temperature 0.1" "loss: decoupled" "crops from 40%" \
	  "encoder half as wide again" --out docs/benchmarks
	$(if $(CIFAR10),$(BIN)/python examples/benchmarks/additions.py --folder $(CIFAR10)/train --out docs/benchmarks)
	$(if $(CLOTHING),$(BIN)/python examples/benchmarks/image_size.py --folder $(CLOTHING) --out docs/benchmarks)

gpu: $(STAMP)-test ## On a machine with a GPU: its tests, the benchmarks, two GPUs; write docs/benchmarks/gpu.md
	$(BIN)/python examples/benchmarks/gpu.py -- $(BENCH_OPTIONS)

lint: ruff format-check types contracts ## Check style, formatting, types, the rooms and the docstrings

docs: $(STAMP)-docs ## Build the documentation into docs/_build/html
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

format: $(STAMP)-lint ## Reformat the code and sort its imports
	$(BIN)/ruff check --select I --fix .
	$(BIN)/ruff format .

ruff: $(STAMP)-lint ## Part of lint: ruff's rules
	$(BIN)/ruff check .

format-check: $(STAMP)-lint ## Part of lint: formatting
	$(BIN)/ruff format --check .

types: $(STAMP)-lint ## Part of lint: types, by mypy
	$(BIN)/python -m mypy

contracts: $(STAMP)-lint ## Part of lint: direction of imports, docstrings
	$(BIN)/python -m pytest -q tests/test_rooms.py tests/test_docstrings.py

clean: ## Remove what the other targets wrote, except the environment
	rm -rf demo build dist docs/_build docs/auto_examples docs/generated docs/reference/generated docs/sg_execution_times.rst
	rm -rf .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find sklearn_simclr tests examples docs -name __pycache__ -type d -prune -exec rm -rf {} +

# --clear: a Python that was removed leaves a link to nothing, and stamps of what is gone with it.
$(BIN)/python:
	$(PYTHON) -m venv --clear $(VENV)

$(BENCH_VENV)/.installed: pyproject.toml
	test -x $(BENCH_VENV)/bin/python || $(PYTHON) -m venv --clear $(BENCH_VENV)
	$(BENCH_VENV)/bin/python $(PIP_INSTALL) -e ".[plot]" $(BENCH_PEERS)
	@touch $@

$(OLDEST_VENV)/.installed: pyproject.toml .ci/floors.py
	test -x $(OLDEST_VENV)/bin/python || $(PYTHON) -m venv --clear $(OLDEST_VENV)
	$(OLDEST_VENV)/bin/python .ci/floors.py > $(OLDEST_VENV)/floors.txt
	$(OLDEST_VENV)/bin/python $(PIP_INSTALL) -c $(OLDEST_VENV)/floors.txt -e ".[test]"
	@touch $@

$(STAMP)-%: pyproject.toml | $(BIN)/python
	$(BIN)/python $(PIP_INSTALL) -e ".[$*]"
	@touch $@
