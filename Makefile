# make demo: install into .venv and train on the digits; make test: the same set-up and the tests. Those marked long and
# slow are left out: make test MARKS='not slow' runs the long ones too, make slow the slow ones.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
MARKS ?= not slow and not long
READY := $(VENV)/.ready

.PHONY: demo test slow lint bench clean

demo: $(READY)
	$(BIN)/python -m recipes.digits

test: $(READY) lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m '$(MARKS)'

slow: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m slow

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

bench: $(READY)
	for file in tests/bench/*.py; do $(BIN)/python $$file || exit 1; done

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "needs Python 3.11 or later; make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(READY)

clean:
	rm -rf $(VENV) build *.egg-info
