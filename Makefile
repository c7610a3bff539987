# `make demo` and `make test` do everything; `make reproduce` asks what of the paper holds. Each sets up .venv when it is missing or stale.

PYTHON ?= python3
PRESET ?= default
SCALE ?= tiny
HOW ?= --quick
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo reproduce test check bench bench-model trials setup clean

demo: $(READY)
	$(BIN)/offaxis demo --preset $(PRESET)

# Everything at the tiny scale: make reproduce HOW= ; one figure: make reproduce HOW=fig7
reproduce: $(READY)
	$(BIN)/offaxis reproduce --scale $(SCALE) $(HOW)

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not trials"

trials: $(READY)
	OMP_NUM_THREADS=1 OFFAXIS_TRIALS=1 $(BIN)/python -m pytest -n 2

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY)
	$(BIN)/python benchmarks/run.py

bench-model: $(READY)
	$(BIN)/python benchmarks/model.py

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "offaxis needs Python 3.11 or newer; found $$($(PYTHON) --version). Set PYTHON=..."; exit 2; }
	@echo "setting up .venv (once; installs PyTorch and Transformers, one to three minutes) ..."
	@begin=$$(date +%s); \
	$(PYTHON) -m venv .venv && \
	$(BIN)/python -m pip install --quiet --progress-bar on --disable-pip-version-check \
		--constraint constraints.txt --editable '.[train,data,evaluate,gym,http,hub,math,paper,peft,ray,dev]' && \
	touch $(READY) && \
	echo "set-up done in $$(( $$(date +%s) - begin )) s, not counted in what follows"

clean:
	rm -rf .venv demo demo-* reproduction-* .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
