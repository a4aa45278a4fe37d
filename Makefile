# Each target makes .venv on first use; PYTHON chooses the interpreter (3.11 to 3.13).
PYTHON ?= python3
BIN := .venv/bin
export JAX_PLATFORMS ?= cpu

.PHONY: demo evaluate test check bench format clean

demo: .venv/ready
	$(BIN)/asclepius demo

# After a demo: its model, the teacher by rule and random weights, from questions to a report.
evaluate: .venv/ready
	$(BIN)/asclepius evaluate demo

test: .venv/ready
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

check: .venv/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest tests/test_architecture.py

# On a quiet machine; writes benchmarks/RESULTS.md.
bench: .venv/ready
	$(BIN)/python benchmarks/run.py

format: .venv/ready
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The install is complete when the marker stands: an interrupted one is begun again.
.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf .venv runs build *.egg-info
