# Every target does its own set-up. PYTHON names the interpreter to build .venv with (3.11 or newer).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Real collections, where they are; tests and benchmarks that want them are skipped without.
FLANTUNE_DATA ?= $(wildcard ../shared/data)
export FLANTUNE_DATA
export TOKENIZERS_PARALLELISM ?= true
STAMP := $(VENV)/.installed

# The studies on the embedded worlds: about an hour on two cores; stopped at any moment, the same command goes on.
STUDY := runs/study

.PHONY: setup demo study test test-slow test-browser lint clean
setup: $(STAMP)

# torch first: on a machine without an NVIDIA driver its CPU build is asked for, which is a tenth of the size.
$(STAMP): pyproject.toml constraints.txt scripts/setup.sh
	PYTHON="$(PYTHON)" VENV="$(VENV)" bash scripts/setup.sh
	touch $@

demo: setup
	$(BIN)/flantune demo

study: setup
	$(BIN)/python -m flantune.demo $(STUDY)
	$(BIN)/flantune study scaling recipes/study-demo-scaling.yaml --set vars.world=$(STUDY)/world --workers 2
	$(BIN)/flantune study cot recipes/study-demo-cot.yaml --set vars.world=$(STUDY)/abilities --workers 2
	$(BIN)/flantune study balance recipes/study-demo-balance.yaml --set vars.world=$(STUDY)/abilities --workers 2

test: setup
	$(BIN)/python -m pytest -n 2 --dist worksteal  # long tests may stand last in their file

test-slow: setup
	$(BIN)/python -m pytest -m slow -n 2 --dist worksteal

test-browser: setup
	bash scripts/install_chromium.sh
	$(BIN)/python -m pytest -m browser

lint: setup
	$(BIN)/ruff check src tests scripts benchmarks
	$(BIN)/ruff format --check src tests scripts benchmarks
	$(BIN)/mypy src/flantune

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
