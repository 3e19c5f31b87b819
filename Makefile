# The whole gate is `make check`; hooks and CI call the same targets.
# PYTHON is the interpreter of the virtual environment that has the project with its `dev` extra.
PYTHON ?= python
RUN = $(PYTHON) -m

.PHONY: check format lint types contracts test unit integration docs lock bench-latency bench-throughput

check: format lint types contracts test

format:
	$(RUN) ruff format --check .

lint:
	$(RUN) ruff check .

types:
	$(RUN) mypy

contracts:
	lint-imports

test: unit integration

unit:
	$(RUN) pytest tests/unit

integration:
	$(RUN) pytest tests/integration
