# `make demo` and `make test` install everything they need: Python 3.11+, make and a package index are enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LMMS_EVAL := .compat/lmms-eval
RELEASE := .compat/release
STRESS_SECONDS ?= 3600
STRESS_SEED ?= 1
export TOKENIZERS_PARALLELISM = false
export HF_HUB_DISABLE_TELEMETRY = 1

.PHONY: demo quick test test-extras stress compat types lmms-eval chromium lint docs notebooks site bench audit release clean

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
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

quick: lint  # while you work: what needs no process of its own
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto -m "not slow and not extras"

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto

# Tests that need heavy packages or more than some ten seconds. Installs what it needs: run it as root on Debian or Ubuntu, or
# install chromium yourself before.
test-extras: $(VENV)/.extras chromium
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto -m extras
	$(MAKE) lmms-eval types

$(VENV)/.extras: $(VENV)/.installed
	.ci/install $(VENV) --constraint constraints.txt --editable '.[dev,extras]'
	touch $@

chromium:
	command -v chromium || { apt-get update --quiet && apt-get install --quiet --yes --no-install-recommends chromium; }

# The tests of benchmarks, and of videos with the version of PyAV that lmms-eval needs, in an environment of their own.
lmms-eval: $(LMMS_EVAL)/.installed
	OMP_NUM_THREADS=1 $(LMMS_EVAL)/bin/python -m pytest -q -n 2 -m "slow or not slow" tests/benchmarking \
		tests/comparing/test_benchmark_scores.py tests/pixels/test_video.py tests/models/test_video_models.py

$(LMMS_EVAL)/.installed: pyproject.toml constraints-lmms-eval.txt .ci/install
	$(PYTHON) -m venv --clear $(LMMS_EVAL)
	.ci/install $(LMMS_EVAL) --constraint constraints-lmms-eval.txt --editable '.[video,data,compare,lmms-eval]' \
		pytest pytest-xdist scikit-image
	touch $@

compat: $(VENV)/.installed  # the tests with the oldest and with the newest versions that pyproject.toml allows
	$(BIN)/python tools/compat.py

# The tests run on the Python that is here. For the other versions that pyproject.toml allows, this is all that is checked.
types: $(VENV)/.installed
	for version in 3.12 3.13 3.14; do $(BIN)/mypy --python-version $$version --cache-dir .mypy_cache/types || exit 1; done

# Asks a service for the known vulnerabilities of every pinned version. It fails where the service cannot be reached.
audit: $(RELEASE)/.installed
	$(RELEASE)/bin/python tools/audit.py

release: $(RELEASE)/.installed  # builds and checks the files of a release in dist/
	$(RELEASE)/bin/python tools/release.py

$(RELEASE)/.installed: constraints-release.txt .ci/install
	$(PYTHON) -m venv --clear $(RELEASE)
	.ci/install $(RELEASE) --constraint constraints-release.txt hatchling twine pip-audit cyclonedx-bom
	touch $@

# Random files at every door for STRESS_SECONDS, from the seed STRESS_SEED on; docs/reliability.md gets the numbers.
stress: $(VENV)/.installed
	OMP_NUM_THREADS=1 STRESS_SECONDS=$(STRESS_SECONDS) STRESS_SEED=$(STRESS_SEED) $(BIN)/python -m pytest -q -s \
		-m "slow or not slow" --hypothesis-seed=$(STRESS_SEED) \
		tests/outside/test_random_inputs.py tests/towers/test_token_properties.py tests/training/test_stored_states.py
	$(MAKE) docs

docs: $(VENV)/.installed
	$(BIN)/python docs/generate.py

notebooks: $(VENV)/.extras  # runs the notebooks of examples/ and saves what they print
	$(BIN)/vita assets
	OMP_NUM_THREADS=1 $(BIN)/python tools/notebooks.py

site: $(VENV)/.installed  # writes the pages of docs/ as a website to site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Run `make bench` on an idle machine. `make bench UPDATE=--update` saves the measured numbers as the new baseline.
bench: $(VENV)/.installed
	$(BIN)/vita assets
	$(BIN)/python benchmarks/guard.py $(UPDATE)

clean:
	rm -rf $(VENV) .compat build dist site .pytest_cache .mypy_cache .ruff_cache
