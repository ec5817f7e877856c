# `make app` opens the dashboard, `make test` runs every check and test. Both set up their environment first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
WORKERS ?= 2

.PHONY: app test check unit browser bench mutants format lock package chromium clean

app: $(VENV)/.app
	$(BIN)/python -m mtz_core app

test: check unit browser

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Tests that drive a browser and measure time run on their own, after the others.
unit: $(VENV)/.dev
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not browser"

browser: $(VENV)/.dev chromium
	$(BIN)/python -m pytest -m browser tests/browser

bench: $(VENV)/.app
	$(BIN)/python -m benchmarks

# Breaks the engine on purpose (docs/testing.md); PATHS=mtz_core/pairing, SAMPLE=400, SEED=0, AGAIN=1 narrow it.
mutants: $(VENV)/.dev
	$(BIN)/python -m scripts.mutants $(if $(PATHS),--paths $(PATHS)) $(if $(SAMPLE),--sample $(SAMPLE)) \
	  $(if $(SEED),--seed $(SEED)) $(if $(AGAIN),--again)

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Exact versions of all that the ranges in pyproject.toml lead to; UPGRADE=--upgrade takes the newest.
lock: $(VENV)/.dev
	$(BIN)/python -m scripts.lock $(UPGRADE)

package:
	scripts/check_package.sh $(PYTHON)

# Browser tests need Chromium; it is installed where that is possible without asking.
chromium:
	@command -v chromium >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
	  && apt-get update -qq && apt-get install -y -qq chromium >/dev/null; } \
	  || { echo "Browser tests need Chromium: sudo apt-get install chromium"; exit 1; }

$(VENV)/.app: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/.dev: requirements-dev.txt $(VENV)/.app
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache mutants
