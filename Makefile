# make repro: the whole pipeline; make test: the tests; make bench: the speed measurements of benchmarks/README.md.
# Every target sets up .venv first.
PYTHON ?= python3
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: repro test bench verify seeds chaos lock

repro: .venv/installed
	.venv/bin/dvc repro

test: .venv/installed
	.venv/bin/ruff check benchmarks examples stages tests
	.venv/bin/mypy
	.venv/bin/pytest

# Twenty minutes on 2 cores. Also installs the libraries to compare with, without changing the pinned versions.
bench: .venv/installed
	.venv/bin/pip install --quiet --constraint requirements.lock --editable '.[bench]'
	.venv/bin/python -m benchmarks.bench
	.venv/bin/python -m benchmarks.scaling

# An environment that was moved does not work: its scripts name their place.
ifneq ($(file < .venv/installed),$(realpath .venv))
.PHONY: .venv/installed
endif
.venv/installed: requirements.lock
	@case `$(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])'` in 3.11|3.12|3.13|3.14) ;; \
	*) echo "$(PYTHON) is not Python 3.11 to 3.14; use another one: make PYTHON=python3.12"; exit 1;; esac
	$(PYTHON) -m venv --clear .venv
	.venv/bin/pip install --quiet --requirement requirements.lock
	realpath .venv > $@

# Reproduces the committed results in a fresh clone and compares the bytes. Takes as long as `make repro`.
verify: .venv/installed
	.venv/bin/python -m benchmarks.verify

# Runs the default parameters with four more seeds and writes the mean over all five: twenty minutes on 2 cores.
seeds: .venv/installed
	for seed in 1 2 3 4; do .venv/bin/dvc exp run --temp --set-param seed=$$seed || exit; done
	.venv/bin/dvc exp show --csv | .venv/bin/python -m benchmarks.seeds > metrics/seeds.csv

# The slow tests (an hour): kill the pipeline and its processes, emulate other processors.
chaos: .venv/installed
	.venv/bin/pytest -m slow --capture=no

# Resolves the version ranges of pyproject.toml in a fresh .venv and pins the result, without the CUDA libraries: torch
# pins those itself, and its CPU build does not have them.
lock:
	rm -rf .venv
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --editable '.[test]'
	.venv/bin/pip freeze --exclude-editable | grep --extended-regexp --invert-match '^(cuda-|nvidia-|triton==)' > requirements.lock
	realpath .venv > .venv/installed
