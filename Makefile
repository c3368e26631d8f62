# Every target does all of its own set-up, in $(VENV), and does it again only when the requirements change.

VENV ?= .venv
# The first Python on the path that is new enough; PYTHON=python3.12 VENV=.venv312 chooses another.
PYTHON ?= $(firstword $(foreach p,python3 python3.13 python3.12 python3.11 python3.14,\
	$(shell $(p) -c 'import sys; sys.version_info >= (3, 11) and print("$(p)")' 2>/dev/null)))
# Processes that run the tests, a file at a time each: 0 is this one alone.
WORKERS ?= 2
PYTEST = bin/python -m pytest -n $(WORKERS) --dist loadfile $(PYTEST_FLAGS)
# Tests compile far more than they compute. Those of numerics have the programs that users run all the same (conftest.py).
COMPILE_FAST = JAX_DISABLE_MOST_OPTIMIZATIONS=1
BIOCLIP = $(VENV)/bin/bioclip-jax
SOURCES = bioclip_jax $(wildcard configs data evals launch) tests setup.py

# DEMO=small is the same chain on less data and for fewer steps, as a check.
DEMO ?= full
DEMO_OUT_full = demo
DEMO_OUT_small = demo-small
DEMO_DATA_full = --num-images 6000
DEMO_DATA_small = --num-images 1500
DEMO_TRAIN_full =
DEMO_TRAIN_small = --total-steps 40
OUT = $(DEMO_OUT_$(DEMO))

# TPU_TESTS=slow compiles models of full size, which takes minutes each.
TPU_TESTS ?= quick
TPU_MARK_quick = 'tpu and not slow'
TPU_MARK_slow = 'tpu and slow'

.DEFAULT_GOAL = help
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help demo test test-core test-slow test-full test-beam test-tpu fits lint format clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' Makefile

demo: $(VENV)/.runtime ## build data, train, evaluate, report and export, in demo/ (DEMO=small: a shorter one)
	$(BIOCLIP) data build synthetic $(OUT)/data --num-species 48 --image-size 48 --test-images-per-species 20 \
		$(DEMO_DATA_$(DEMO))
	$(BIOCLIP) data show $(OUT)/data --out $(OUT)/data.png
	$(BIOCLIP) train demo --work-dir $(OUT)/run --data.dataset $(OUT)/data $(DEMO_TRAIN_$(DEMO))
	$(BIOCLIP) eval $(OUT)/run synthetic --root $(OUT)/data
	$(BIOCLIP) report $(OUT)/run --out $(OUT)/report.html
	$(BIOCLIP) convert $(OUT)/run $(OUT)/open_clip --to open_clip --overwrite
	@echo "Look at $(OUT)/report.html; the weights for PyTorch are in $(OUT)/open_clip."

test: $(VENV)/.torch ## all tests but the slow ones and those for Apache Beam and TPUs
	$(COMPILE_FAST) $(VENV)/$(PYTEST)

test-core: $(VENV)/.dev ## the tests that need no PyTorch
	$(COMPILE_FAST) $(VENV)/$(PYTEST) -m 'core and not slow and not beam and not tpu'

test-slow: $(VENV)/.torch ## the slow tests that each push runs
	$(VENV)/$(PYTEST) -m 'slow and not full and not beam and not tpu'

test-full: $(VENV)/.torch ## every test but those for Apache Beam and TPUs (half an hour)
	$(VENV)/$(PYTEST) -m 'not beam and not tpu'

test-beam: $(VENV)-beam/.beam ## the tests by Apache Beam, in an environment of their own
	$(VENV)-beam/$(PYTEST) -m beam

test-tpu: $(VENV)-tpu/.tpu ## compile for TPUs that are not here, in an environment of its own (TPU_TESTS=slow: full size)
	$(VENV)-tpu/$(PYTEST) -m $(TPU_MARK_$(TPU_TESTS))

fits: $(VENV)-tpu/.tpu ## compile full-size models for TPUs and GPUs that are not here, for docs/fits.md and plan.md (15 minutes)
	$(VENV)-tpu/bin/python tests/benchmarks/fits.py

lint: $(VENV)/.dev ## style, format, types, and which floor imports which
	$(VENV)/bin/ruff check $(SOURCES)
	$(VENV)/bin/ruff format --check $(SOURCES)
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

format: $(VENV)/.dev ## write the style that lint asks for
	$(VENV)/bin/ruff check --fix $(SOURCES)
	$(VENV)/bin/ruff format $(SOURCES)

clean: ## remove what make made: environments, the demo, caches
	rm -rf .venv .venv-* $(VENV) $(VENV)-beam $(VENV)-tpu demo demo-small build dist *.egg-info
	rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find $(SOURCES) -name __pycache__ -prune -exec rm -rf {} +

# An environment grows: what the demo needs, what the tests and lint need besides, and PyTorch for the whole suite.
# Apache Beam needs older versions of other packages, and the compiler for TPUs is large: each has its own environment.
$(VENV)/.runtime: LEVELS = .runtime
$(VENV)/.dev: EXTRAS = [dev]
$(VENV)/.dev: LEVELS = .runtime .dev
$(VENV)/.torch: EXTRAS = [dev,peers]
$(VENV)/.torch: LEVELS = .runtime .dev .torch
$(VENV)-beam/.beam: EXTRAS = [dev,beam]
$(VENV)-beam/.beam: LEVELS = .beam
$(VENV)-tpu/.tpu: EXTRAS = [dev,tpu,cuda-compiler]
$(VENV)-tpu/.tpu: LEVELS = .tpu

$(VENV)/.runtime $(VENV)/.dev $(VENV)/.torch $(VENV)-beam/.beam $(VENV)-tpu/.tpu: pyproject.toml setup.py constraints.txt
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or newer on the path; name one with PYTHON=/path/to/python3" >&2; exit 1; }
	@$(@D)/bin/python -c '' 2>/dev/null || $(PYTHON) -m venv --clear $(@D) \
		|| { echo "error: $(PYTHON) cannot make a virtual environment; install its venv module (Debian: python3-venv)" >&2; exit 1; }
	@echo "Setting up $(@D) with $$($(@D)/bin/python -V): bioclip-jax$(EXTRAS), once; this takes a few minutes"
	@$(@D)/bin/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt --editable '.$(EXTRAS)'
	@cd $(@D) && touch $(LEVELS)
