# make repro: the whole pipeline; make test: the tests. Both set up .venv first.
PYTHON ?= python3
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: repro test lock

repro: .venv/installed
	.venv/bin/dvc repro

test: .venv/installed
	.venv/bin/ruff check stages tests
	.venv/bin/mypy
	.venv/bin/pytest

.venv/installed: requirements.lock
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --requirement requirements.lock
	touch $@

# Resolves pyproject.toml's ranges anew, in a fresh .venv, and pins what came out.
lock:
	rm -rf .venv
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --editable '.[test]'
	.venv/bin/pip freeze --exclude-editable > requirements.lock
	touch .venv/installed
