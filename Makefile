# make demo and make test need only a Python >= 3.10 and make; everything else is installed into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
WORKERS ?= 2

export OMP_NUM_THREADS ?= 2

.PHONY: help setup demo test test-cuda test-browser lint format typecheck bench clean

help:
	@echo "make setup      create .venv and install graphopt with everything the tests need"
	@echo "make demo       set up, then optimize a trained model and print a before/after table"
	@echo "make test       set up, then run the tests"
	@echo "make test-cuda  the tests that need a CUDA device, with the python on the path"
	@echo "make test-browser  the report page in a headless browser"
	@echo "make lint       ruff and mypy"
	@echo "make bench      every benchmark, JSON under build/benchmarks"

setup: $(STAMP)

# torch first, alone and pinned: an unpinned torch would pull in gigabytes of another build. Of rapidocr (Apache-2.0) the
# tests read the ONNX files alone, so it comes without what it needs to run.
$(STAMP): pyproject.toml setup.py constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt torch
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[all,dev]"
	$(BIN)/python -m pip install -q -c constraints.txt --no-deps rapidocr
	touch $@

demo: $(STAMP)
	$(BIN)/python examples/demo.py

test: export OMP_NUM_THREADS := 1
test: $(STAMP)
	$(BIN)/python -m pytest -q -n $(WORKERS) -m "not cuda and not slow and not browser" tests

# Run where torch has CUDA; uses the python on the path, since .venv holds the CPU build.
test-cuda:
	$(PYTHON) -m pytest -q -m cuda tests

# The report page in a headless Chromium or Chrome (apt-get install chromium).
test-browser: $(STAMP)
	$(BIN)/python -m pytest -q -s -m browser tests/report

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PYTHON="$(CURDIR)/$(BIN)/python" .ci/typecheck

typecheck: $(STAMP)
	PYTHON="$(CURDIR)/$(BIN)/python" .ci/typecheck

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)
	mkdir -p build/benchmarks
	set -e; for file in $(filter-out benchmarks/common.py benchmarks/__init__.py,$(wildcard benchmarks/*.py)); do \
		echo "== $$file"; \
		$(BIN)/python $$file --json build/benchmarks/$$(basename $$file .py).json; \
	done

clean:
	rm -rf build dist *.egg-info
