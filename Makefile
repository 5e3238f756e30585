PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Optional parts of the package that are installed beside the tests' own, as in `make test-all EXTRAS=test,gpu`.
EXTRAS ?= test
PYTEST := $(BIN)/pytest -n auto --dist worksteal
PARTS := rtl synth studies slow formal
SPACE := $(subst ,, )

.PHONY: demo test test-rest test-all $(PARTS:%=test-%) test-bitstream resolve lint docs model clean

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[$(EXTRAS)]'
	touch $@

demo: $(VENV)/.installed  ## compile the shipped model, run it on all four engines, cross-check
	$(BIN)/skipopu demo

test: $(VENV)/.installed  ## linters, types, the fast tests, the hardware units, and two machines' RTL against the functional engine
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(PYTEST) -m 'not ($(subst $(SPACE), or ,$(PARTS) bitstream))' --durations=5

$(PARTS:%=test-%) test-bitstream: test-%: $(VENV)/.installed  ## one part of the other tests
	$(PYTEST) -m $* --durations=0

test-rest: $(VENV)/.installed  ## all those parts; the bitstream is none of them
	$(PYTEST) -m '$(subst $(SPACE), or ,$(PARTS))' --durations=0

test-all: test test-rest test-bitstream

resolve: $(VENV)/.installed  ## would the public package index alone do, on each Python?
	$(BIN)/pytest -m '' tests/project/test_install.py

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
	$(BIN)/python -m docs.notebook
	$(BIN)/python -m tests.formal

model: $(VENV)/.installed  ## train the shipped models again (two and a half hours on two cores)
	$(BIN)/python models/train.py pybyte-1m --out models/pybyte-1m
	$(BIN)/python models/train.py pybyte-300k --out models/pybyte-300k --steps 6000 400 3000
	$(BIN)/python models/train.py pybyte-1m --from models/pybyte-1m --masks 1200 --out models/pybyte-1m-masked
	$(BIN)/skipopu calibrate models/pybyte-1m-masked --mask 0.4 --force -o models/pybyte-1m-masked/masks.safetensors

clean:
	rm -rf $(VENV) *.egg-info
