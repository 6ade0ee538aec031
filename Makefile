# Two commands matter: `make demo` and `make test`. Each makes .venv and installs what it needs.
PYTHON ?= python3.11
BIN := .venv/bin
SOURCES := pyproject.toml constraints.txt $(wildcard CMakeLists.txt src/argumbel/kernels/cpu/*)
INSTALL = $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test lint bench bench-gpu docs clean

demo: .venv/train.stamp  ## train a categorical VAE on real handwriting, evaluate it, write a report
	$(BIN)/argumbel train --run runs/demo --overwrite

test: .venv/test.stamp  ## all tests, and every example in docstrings and documentation
	$(BIN)/python -m pytest -n auto

lint: .venv/lint.stamp  ## style and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: .venv/bench.stamp  ## time and exactness beside other libraries; writes benchmarks/RESULTS.md
	$(BIN)/python -m benchmarks

bench-gpu: .venv/bench.stamp  ## the same for the kernels of a GPU, on one; writes benchmarks/RESULTS_GPU.md
	$(BIN)/python -m benchmarks.gpu

docs: .venv/docs.stamp  ## the documentation site, in site/
	$(BIN)/mkdocs build --strict

clean:
	rm -rf .venv build site runs

.venv/pip.stamp:
	$(PYTHON) -m venv .venv || python3 -m venv .venv
	touch $@

.venv/%.stamp: .venv/pip.stamp $(SOURCES)
	$(INSTALL) --editable '.[$*]'
	touch $@
