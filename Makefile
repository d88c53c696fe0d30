# Two commands matter to a reader:   make book   builds the site      make test   checks everything
# Each sets up .venv by itself when that is needed, asks nothing, and may be interrupted and repeated.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PY := .venv/bin/python
READY := .venv/.ready
PEERS := .venv/peers

.PHONY: help book test lint refresh bench lock clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(READY): requirements.txt pyproject.toml tools/set_up.sh
	@tools/set_up.sh

book: $(READY)  ## build the site into _build/html, with warnings as errors
	@$(PY) tools/build.py

test: $(READY)  ## check everything: library, notebooks against their stored outputs, the site in a browser
	@$(PY) tools/check.py

lint: $(READY)  ## style, and the import contract
	@$(PY) -m ruff check .
	@.venv/bin/lint-imports --no-logo

refresh: $(READY)  ## re-execute all notebooks and store their outputs; one only: make refresh NB=book/x.ipynb
	@$(PY) tools/refresh.py $(NB)

# In a folder of their own: what a benchmark needs must not change what `make test` finds installed.
$(PEERS)/.ready: requirements-bench.txt $(READY)
	@echo "set-up: installing the benchmarks' peers into $(PEERS)"
	@$(PY) -m pip install --disable-pip-version-check -qq --no-deps --upgrade --target $(PEERS) -r requirements-bench.txt
	@touch $@

bench: $(PEERS)/.ready  ## measure the library against its peers
	@for file in $$(grep -l __main__ benchmarks/*.py); do echo "== $$file"; PYTHONPATH=$(PEERS) $(PY) "$$file"; done

lock: $(READY)  ## write requirements.txt anew from requirements.in, with the newest versions
	@$(PY) -m pip install --quiet uv
	@$(PY) tools/lock.py

clean:  ## remove what the other commands made
	@rm -rf .venv _build .pytest_cache .ruff_cache .import_linter_cache .hypothesis companion.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
