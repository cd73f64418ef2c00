# make demo, make test, make lint: each makes .venv from constraints.txt first, and re-uses it while
# pyproject.toml and constraints.txt stay as they are. Python >= 3.11 and make are all that is needed.

PYTHON ?= python3
VENV := .venv
PEER := .venv-peer
BIN := $(VENV)/bin
READY := $(VENV)/.ready
ARGS ?=

.PHONY: demo test test-cluster test-trackers test-peer benchmark benchmark-long break-rules docs lint format wheel web clean help
.DEFAULT_GOAL := help

help:
	@echo "make demo   the whole chain on a small synthetic ACDC-like cohort, in minutes"
	@echo "make test   the test suite; make test ARGS='-k plan' passes arguments to pytest"
	@echo "make test-cluster  train-all on a real Slurm and a real Ray, both on this machine; as root"
	@echo "make test-trackers  the trackers, MLflow's too"
	@echo "make test-peer  imported nnU-Net models beside nnunetv2 itself, which gets an environment of its own"
	@echo "make benchmark DATA=DIR  beside nnunetv2: docs/performance.md; half an hour. ROWS='warp export' for some rows"
	@echo "make benchmark-long DATA=DIR  the rows that take longer"
	@echo "make break-rules   break each rule of docs/fidelity.md and see its test fail; half an hour"
	@echo "make docs   docs/commands.md, from the commands themselves"
	@echo "make lint   ruff, mypy and import-linter"
	@echo "make wheel  dist/*.whl"
	@echo "make web    the JavaScript that is shipped, again, from the npm packages of tools/web"
	@echo "make clean  remove .venv, dist and caches"

# The mark is written last: an interrupted installation starts over instead of being taken for a finished one.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "nnunet_box needs Python 3.11 or newer; found: $$($(PYTHON) --version). Try: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || \
	  { echo "$(PYTHON) cannot make virtual environments; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@echo "making $(VENV) with the versions of constraints.txt; this takes a few minutes, once" >&2
	@rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt hatchling editables
	$(BIN)/python -m pip install --quiet --no-build-isolation -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(READY)
	$(BIN)/nnbox demo $(ARGS)

# As many processes as there are cores, up to four; ARGS="-n 0" for one, as a debugger needs it.
test: $(READY)
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --no-loadscope-reorder \
	  --cov --cov-report=term:skip-covered $(ARGS)

# The same torch as ours comes first: alone, nnunetv2 would fetch the newest, which may be one for CUDA of several GB.
$(PEER)/.ready: constraints.txt
	rm -rf $(PEER)
	$(PYTHON) -m venv $(PEER)
	grep '^torch==' constraints.txt > $(PEER)/torch.txt
	$(PEER)/bin/python -m pip install --quiet -r $(PEER)/torch.txt
	$(PEER)/bin/python -m pip install --quiet -c $(PEER)/torch.txt nnunetv2==2.8.1
	@touch $@

# As root on Debian: .ci/slurm.sh installs and starts a Slurm of its own; .ci/slurm.sh --stop ends it.
test-cluster: $(READY)
	$(BIN)/python -m pip install --quiet --no-build-isolation -c constraints.txt -e '.[dev,ray]'
	slurm=$$(.ci/slurm.sh) && export "$$slurm" OMP_NUM_THREADS=1 && \
	  $(BIN)/python -m pytest -m cluster --require-slurm --require-ray $(ARGS)

# MLflow is 124 MB, too much for everybody's environment; TensorBoard's part of these tests is in make test as well.
test-trackers: $(READY)
	$(BIN)/python -m pip install --quiet --no-build-isolation -c constraints.txt -e '.[dev,mlflow]'
	$(BIN)/python -m pytest tests/training/test_trackers.py $(ARGS)

test-peer: $(READY) $(PEER)/.ready
	NNBOX_PEER_PYTHON=$(PEER)/bin/python $(BIN)/python -m pytest -m peer tests/importing $(ARGS)

# DATA holds the Decathlon's Task04_Hippocampus; without it the rows that need it are left out.
BENCHMARK = $(BIN)/python benchmarks/compare.py --peer-python $(PEER)/bin/python --write \
  $(if $(DATA),--data $(DATA)) $(if $(ROWS),--rows $(ROWS)) $(ARGS)

benchmark: $(READY) $(PEER)/.ready
	$(BENCHMARK)

benchmark-long: $(READY) $(PEER)/.ready
	$(BENCHMARK) --long

break-rules: $(READY)
	$(BIN)/python tests/fidelity/break_rules.py $(ARGS)

docs: $(READY)
	$(BIN)/python -m nnunet_box.cli.manual docs/commands.md

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

wheel: $(READY)
	$(BIN)/python -m build --wheel --no-isolation --outdir dist .

web:
	$(PYTHON) tools/web/vendor.py

clean:
	rm -rf $(VENV) $(PEER) dist build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .coverage
