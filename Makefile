# Each target installs what it needs into .venv first; PYTHON chooses the interpreter (3.11 to 3.13).
PYTHON ?= python3
BIN := .venv/bin
export JAX_PLATFORMS ?= cpu

.PHONY: demo evaluate test check bench docs format clean

demo: .venv/installed-demo
	$(BIN)/asclepius demo

# After a demo: its model, the teacher by rule and random weights, from questions to a report.
evaluate: .venv/installed-evaluate
	$(BIN)/asclepius evaluate demo

test: .venv/installed-dev
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

check: .venv/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy --strict --follow-imports=silent asclepius_jax/__init__.py
	$(BIN)/pytest tests/test_architecture.py

# On a quiet machine; writes benchmarks/RESULTS.md.
bench: .venv/installed-dev
	$(BIN)/python benchmarks/run.py

docs: .venv/installed-docs
	$(BIN)/zensical build --strict

format: .venv/installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# An extra of pyproject.toml. It is installed when the marker stands: an interrupted install is begun again.
.venv/installed-%: pyproject.toml constraints.txt
	test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$*]'
	touch $@

clean:
	rm -rf .venv runs build dist
