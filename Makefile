PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint docs model clean

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@

demo: $(VENV)/.installed  ## compile the shipped model, run it on all four engines, cross-check
	$(BIN)/skipopu demo

test: $(VENV)/.installed  ## linters, then every test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/pytest -m "" -n auto --dist worksteal --durations=15

lint: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/pyright
	$(BIN)/lint-imports

docs: $(VENV)/.installed  ## regenerate the generated pages
	$(BIN)/python -m skipopu isa --markdown > docs/isa.md
	$(BIN)/python -m skipopu.machine.doc > docs/machine.md
	$(BIN)/python -m skipopu.numerics.doc > docs/numerics.md
	$(BIN)/python -m sim.compare.pages

model: $(VENV)/.installed  ## train the shipped models again (two hours on two cores)
	$(BIN)/python models/train.py pybyte-1m --out models/pybyte-1m
	$(BIN)/python models/train.py pybyte-300k --out models/pybyte-300k --steps 6000 400 3000

clean:
	rm -rf $(VENV) *.egg-info
