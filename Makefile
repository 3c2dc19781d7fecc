# Two commands for a newcomer: `make demo` and `make test`. Each makes the environment it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
OUT ?= out
JOBS ?= 2

export OMP_NUM_THREADS ?= 1

.PHONY: demo test test-fast check format clean

demo: $(READY)
	$(BIN)/stream-ctr demo --out $(OUT)

test: $(READY)
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile tests stream_ctr simulators

# Before each commit: the tests without the marker `slow`, in under 90 s on two cores once the kernels are
# compiled (the first run compiles them). It leaves out what starts processes, trains for long, draws or runs
# the GPU's kernels in an interpreter (tests/support/slow_files.py lists it by measured time) and the examples in
# docstrings, and tries fewer examples of each property. `make test` runs everything.
test-fast: $(READY)
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m "not slow" --hypothesis-profile fast tests

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(READY): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 15) else \
	  "Python %d.%d cannot run Stream CTR: 3.11 to 3.14 can; name one with make PYTHON=python3.12" % v)'
	$(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV); PyTorch is large, so this takes some minutes once."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $(READY)

clean:
	rm -rf $(VENV) $(OUT) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
