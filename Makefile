# Every target makes the environment it needs; a bare machine with Python 3.11 or newer is enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: compare test fast slow mutants browser notebook lint types docs clean

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --no-compile --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --no-compile --quiet --disable-pip-version-check -c constraints.txt -e '.[test,lint]'
	touch $(INSTALLED)

compare: $(INSTALLED)  ## Compare all strategies; writes results/compare. ARGS='--budgets 192,128,64,32' for four budgets
	$(BIN)/tokenprune compare --out results/compare --budgets 64,32 $(ARGS)

# each process begins with its half of the files, so that what tests of a file share is made once
TESTED := $(BIN)/python -m pytest -q -n 2 --dist worksteal

test: fast slow  ## Run every test, fast ones first

fast: $(INSTALLED)  ## With COVERAGE=1, say which lines the fast tests reach (takes a third longer)
	$(TESTED) -m "not slow" $(if $(COVERAGE),--cov --cov-report=term) $(ARGS)

slow: $(INSTALLED)
	$(TESTED) -m slow $(ARGS)

mutants: $(INSTALLED)  ## Plant the mistakes of tests/mutants/planted.yaml, one at a time: a test has to fail for each
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.mutants $(ARGS)

browser: $(INSTALLED)  ## Drive the explorer and the report in chromium, which has to be installed with its driver
	$(BIN)/python -m pip install --no-compile --quiet --disable-pip-version-check -c constraints.txt -e '.[browser]'
	$(BIN)/python -m tests.browser --driver "$$(command -v chromedriver)" $(ARGS)

notebook: $(INSTALLED)  ## Run the tutorial's notebook from top to bottom
	$(BIN)/python -m pip install --no-compile --quiet --disable-pip-version-check -c constraints.txt -e '.[notebook]'
	$(BIN)/python -m experiments.tutorial.notebook --run

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/codespell

types: $(INSTALLED)
	$(BIN)/mypy

docs: $(VENV)-docs/.installed  ## Build the documentation site into site/
	NO_MKDOCS_2_WARNING=1 $(VENV)-docs/bin/mkdocs build --strict --quiet

$(VENV)-docs/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)-docs
	$(VENV)-docs/bin/python -m pip install --no-compile --quiet --disable-pip-version-check -c constraints.txt 'mkdocs-material>=9.6' 'mkdocstrings[python]>=0.30'
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-docs build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
