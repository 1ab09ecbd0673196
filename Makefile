# make repro: the whole pipeline; make test: the tests; make bench: what the README says about speed.
# All set up .venv first.
PYTHON ?= python3
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: repro test bench verify seeds chaos lock

repro: .venv/installed
	.venv/bin/dvc repro

test: .venv/installed
	.venv/bin/ruff check benchmarks stages tests
	.venv/bin/mypy
	.venv/bin/pytest

# Twenty minutes on 2 cores. The libraries to compare with are installed beside the pinned ones, which stay as they are.
bench: .venv/installed
	.venv/bin/pip install --quiet --constraint requirements.lock --editable '.[bench]'
	.venv/bin/python -m benchmarks.bench
	.venv/bin/python -m benchmarks.scaling

.venv/installed: requirements.lock
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --requirement requirements.lock
	touch $@

# Whether this machine gives the committed bytes, in a fresh clone: as long as `make repro`.
verify: .venv/installed
	.venv/bin/python -m benchmarks.verify

# The default run with four more seeds, one after the other, and the mean over all five: twenty minutes on 2 cores.
seeds: .venv/installed
	for seed in 1 2 3 4; do .venv/bin/dvc exp run --temp --set-param seed=$$seed || exit; done
	.venv/bin/dvc exp show --csv | .venv/bin/python -m benchmarks.seeds > metrics/seeds.csv

# The slow tests: kills the pipeline and its processes, emulates other processors, shares a remote; an hour.
chaos: .venv/installed
	.venv/bin/pip install --quiet --constraint requirements.lock --editable '.[remote]'
	.venv/bin/pytest -m slow --capture=no

# Resolves pyproject.toml's ranges anew, in a fresh .venv, and pins what came out, but for what torch pins itself: CUDA's
# libraries, which its build for the CPU doesn't have.
lock:
	rm -rf .venv
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --editable '.[test]'
	.venv/bin/pip freeze --exclude-editable | grep --extended-regexp --invert-match '^(cuda-|nvidia-|triton==)' > requirements.lock
	touch .venv/installed
