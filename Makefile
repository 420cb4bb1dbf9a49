# make demo | test | test-slow | test-slurm | lint | bench | clean       needs Python >= 3.11 and make, nothing else
# make TORCH=torch==2.11.0 …                                another torch than constraints.txt pins
PYTHON ?= python3
TORCH ?=
VENV ?= .venv
STORE ?= results
BIN = $(VENV)/bin
RUN = $(BIN)/precisionlaws
export PIP_DISABLE_PIP_VERSION_CHECK = 1
export MPLBACKEND = Agg

.PHONY: demo test test-slow test-slurm lint bench setup clean

demo: $(VENV)/installed
	$(RUN) sweep demo --store $(STORE)
	$(RUN) fit $(STORE) --law neff_kumar,neff_free,ptq_kumar -o $(STORE)/fits
	$(RUN) plan $(STORE)/fits/neff_free.json --flops 1e11
	$(RUN) plan $(STORE)/fits/ptq_kumar.json --flops 1e11
	$(RUN) plot optimal-bits $(STORE)/fits/neff_kumar.json $(STORE)/fits/neff_free.json -o $(STORE)/optimal-bits.png
	$(RUN) plot ptq $(STORE)/fits/ptq_kumar.json -o $(STORE)/ptq.png
	$(RUN) plot fit $(STORE)/fits/neff_free.json -o $(STORE)/fit.png
	$(RUN) report $(STORE) --fits $(STORE)/fits -o $(STORE)/report.html

test: lint
	$(BIN)/pytest -q -n 2 --maxprocesses 2 --dist loadfile

test-slow: $(VENV)/dev
	$(BIN)/pytest -q -m slow

test-slurm: $(VENV)/dev
	$(BIN)/pytest -q -rs -m slurm tests/sweep/slurm

lint: $(VENV)/dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/basedpyright --level error
	$(BIN)/lint-imports --no-logo

bench: $(VENV)/installed
	for b in cli plan train parts packs kernels formats ptq e8p fit store coverage; do $(BIN)/python benchmarks/bench_$$b.py || exit 1; done

setup: $(VENV)/installed

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: Python >= 3.11 is needed, $(PYTHON) is `$(PYTHON) -V 2>&1`; set PYTHON=python3.12, say" >&2; exit 2; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "error: Python's venv module is missing; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/pip install -q $(if $(TORCH),$(TORCH),-c constraints.txt) -e .
	@touch $@

$(VENV)/dev: $(VENV)/installed
	$(BIN)/pip install -q $(if $(TORCH),$(TORCH),-c constraints.txt) -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
