# Every target makes the environment it needs; a bare machine with Python 3.11 or newer is enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: compare test fast slow browser lint types docs clean

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,lint]'
	touch $(INSTALLED)

compare: $(INSTALLED)  ## Compare all strategies; writes results/compare
	$(BIN)/tokenprune compare --out results/compare $(ARGS)

test: fast slow  ## Run every test, fast ones first

fast: $(INSTALLED)
	$(BIN)/python -m pytest -q -m "not slow" $(ARGS)

slow: $(INSTALLED)
	$(BIN)/python -m pytest -q -m slow $(ARGS)

browser: $(INSTALLED)  ## Drive the explorer in chromium, which has to be installed with its driver
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[browser]'
	$(BIN)/python tests/browser.py --driver "$$(command -v chromedriver)" $(ARGS)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(INSTALLED)
	$(BIN)/mypy

docs:  ## Build the documentation site into site/
	$(PYTHON) -m venv $(VENV)-docs
	$(VENV)-docs/bin/python -m pip install --quiet --disable-pip-version-check 'mkdocs-material>=9.6' 'mkdocstrings[python]>=0.30'
	$(VENV)-docs/bin/mkdocs build --strict

clean:
	rm -rf $(VENV) $(VENV)-docs build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
