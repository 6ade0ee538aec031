# Two commands matter: `make demo` and `make test`. Each makes .venv and installs what it needs.
PYTHON ?= python3.11
CONSTRAINTS ?= constraints.txt
BIN := .venv/bin
SOURCES := pyproject.toml $(CONSTRAINTS) $(wildcard CMakeLists.txt src/argumbel/kernels/cpu/*)
SANITIZED := $(foreach idea,kernels seeds truncation arrivals reference position golden choice noise relax reverse subsets linear modes structures,\
  $(wildcard tests/test_$(idea).py tests/test_$(idea)_*.py))
CPP := $(wildcard src/argumbel/kernels/cpu/*.h src/argumbel/kernels/cpu/*.cpp)
VERSION = $(shell sed -n 's/^version = "\([0-9]*\.[0-9]*\)\..*/\1/p' pyproject.toml)
INSTALL = $(BIN)/pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS)

.PHONY: demo build test test-fast test-clusters test-models test-arm slow sanitize lint lint-python lint-cpp lint-names lint-github format hooks bench bench-gpu docs docs-version test-docs clean

demo: .venv/train.stamp  ## train a categorical VAE on real handwriting, evaluate it, write a report
	$(BIN)/argumbel train --run runs/demo --overwrite

build: .venv/test.stamp  ## install, and compile the C++ again if it has changed

test: .venv/test.stamp  ## all tests, and every example in docstrings and documentation
	$(BIN)/python -m pytest -n auto

test-fast: .venv/test.stamp  ## the tests that tests/slow.txt does not list: about a minute and a half on two cores
	$(BIN)/python -m pytest -n auto -m "not slow"

slow: .venv/test.stamp  ## run and time all tests, and write tests/slow.txt again
	$(BIN)/python -m pytest -n auto --junitxml=build/times.xml
	$(BIN)/python -m tests.slow build/times.xml

test-clusters: .venv/clusters.stamp  ## samples of tables of Spark (needs Java 17) and Ray, on this machine: some minutes
	ARGUMBEL_TEST_CLUSTERS=1 $(BIN)/python -m pytest tests/test_tables_clusters.py tests/test_tables_sql.py

test-models: .venv/models.stamp  ## the adapter for Hugging Face transformers, on small models
	$(BIN)/python -m pytest tests/test_sequences_transformers.py

test-arm:  ## kernels of 64-bit ARM under qemu, on Debian or Ubuntu: see the top of tests/arm.sh
	tests/arm.sh

# Installs over the usual build; the stamps are removed, so that the next command installs the usual build again. Code that
# Inductor compiles is left out: it takes long there, and calls the same kernels.
sanitize: .venv/test.stamp  ## tests of the kernels under the address and undefined-behaviour sanitizers, on Linux: 35 minutes of one core
	find .venv -maxdepth 1 -name '*.stamp' ! -name pip.stamp -delete
	$(INSTALL) --no-deps --force-reinstall --config-settings=cmake.define.ARGUMBEL_SANITIZE=ON --editable .
	LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so)" \
	  ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
	  $(BIN)/python -m pytest -n auto -m "not slow" -k "not inductor" $(SANITIZED)

lint: lint-python lint-cpp lint-names lint-github  ## style, types, spelling of names, workflows

lint-python: .venv/lint.stamp
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

lint-cpp: .venv/lint.stamp
	$(BIN)/clang-format --dry-run --Werror $(CPP)

lint-names: .venv/lint.stamp
	$(BIN)/typos

lint-github: .venv/lint.stamp
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-issue-config .github/ISSUE_TEMPLATE/config.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-issue-forms $(filter-out %/config.yml,$(wildcard .github/ISSUE_TEMPLATE/*.yml))
	$(BIN)/check-jsonschema --builtin-schema vendor.citation-file-format CITATION.cff
	$(BIN)/zizmor --quiet --offline --persona pedantic .github

format: .venv/lint.stamp  ## lay out Python and C++ as `make lint` wants it
	$(BIN)/ruff check --select I --fix
	$(BIN)/ruff format
	$(BIN)/clang-format -i $(CPP)

hooks: .venv/hooks.stamp  ## run the checks that concern it before each commit
	$(BIN)/pre-commit install

bench: .venv/bench.stamp  ## time and exactness beside other libraries, on a quiet machine; writes benchmarks/RESULTS.md
	$(BIN)/python -m benchmarks

bench-gpu: .venv/bench.stamp  ## the same for the kernels of a GPU, on one; writes benchmarks/RESULTS_GPU.md
	$(BIN)/python -m benchmarks.gpu

docs: .venv/docs.stamp  ## the documentation site, in site/
	$(BIN)/mkdocs build --strict

test-docs: .venv/docs-test.stamp  ## the site, built and opened in Chromium, which must be there (Debian: apt-get install chromium): three minutes, one of them to install
	$(BIN)/mkdocs build --strict
	$(BIN)/python -m pytest -n auto tests/browser

docs-version: .venv/docs-version.stamp  ## add the site of this version to the branch gh-pages, which is not pushed
	$(BIN)/mike deploy --config-file mkdocs-versions.yml --update-aliases $(VERSION) latest
	$(BIN)/mike set-default --config-file mkdocs-versions.yml latest

clean:
	rm -rf .venv .arm build site runs

.venv/pip.stamp:
	@for python in $(PYTHON) python3.14 python3.13 python3.12 python3; do \
	  if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    $$python -m venv .venv && touch $@; exit; fi; done; \
	  echo "argumbel needs Python 3.11 or later, but $(PYTHON), python3.12 and so on, and python3 are missing or older."; \
	  echo "Install one, or say where one is: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1

.venv/%.stamp: .venv/pip.stamp $(SOURCES)
	$(INSTALL) --editable '.[$*]'
	touch $@
