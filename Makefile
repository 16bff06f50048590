# `make demo` and `make test` install everything they need: Python 3.11+, make and a package index are enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export TOKENIZERS_PARALLELISM = false
export HF_HUB_DISABLE_TELEMETRY = 1

.PHONY: demo quick test lint docs site bench clean

$(VENV)/.installed: pyproject.toml constraints.txt .ci/install
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "vita-core needs Python 3.11 or newer; run: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	.ci/install $(VENV) --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(VENV)/.installed
	$(BIN)/vita assets
	$(BIN)/vita run quickstart --image examples/pictures/cat.jpg --question "What is this?"

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

quick: lint  # while you work: what needs no process of its own
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto -m "not slow and not extras"

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto

docs: $(VENV)/.installed
	$(BIN)/python docs/generate.py

site: $(VENV)/.installed  # writes the pages of docs/ as a website to site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Run `make bench` on an idle machine. `make bench UPDATE=--update` saves the measured numbers as the new baseline.
bench: $(VENV)/.installed
	$(BIN)/vita assets
	$(BIN)/python benchmarks/guard.py $(UPDATE)

clean:
	rm -rf $(VENV) build dist site .pytest_cache .mypy_cache .ruff_cache
