# make life    set up a virtual environment and run the life of the embedded `cat` model
# make test    set up, then check format, lint and types, run the default tests and build the docs
#
# make test-slow, test-gpu, clients, bench, docs, serve-docs, format, pins, clean
#
# PYTHON=python3.12      the interpreter of the virtual environment
# PIP_EXTRA="..."        additional options of pip, such as the index of PyTorch's CPU-only or CUDA builds
# WORKERS=4              number of test processes

PYTHON ?= python3
VENV ?= .venv
PIP_EXTRA ?=
WORKERS ?= 2
PIP = $(VENV)/bin/python -m pip install -qq --disable-pip-version-check -c constraints.txt $(PIP_EXTRA)
SOURCES = vita tests bench docs
CLIENTS = langchain-openai langchain-anthropic litellm inspect_ai "lm_eval[api]"

.DEFAULT_GOAL := help
.PHONY: help life test check test-slow test-gpu clients bench docs serve-docs format pins clean

help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' Makefile

life: $(VENV)/.runtime
	$(VENV)/bin/vita live cat

test: check
	$(VENV)/bin/python -m pytest -n $(WORKERS) -m "not slow and not gpu"
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict --quiet

check: $(VENV)/.everything
	$(VENV)/bin/ruff format --check $(SOURCES)
	$(VENV)/bin/ruff check $(SOURCES)
	$(VENV)/bin/pyright --pythonpath $(VENV)/bin/python

# PostgreSQL is installed without a prompt on Debian and Ubuntu, as root. Tests of a peer that cannot be installed are skipped.
test-slow: $(VENV)/.everything
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && ! ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1; then \
		echo "installing postgresql"; \
		{ apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends postgresql; } >/dev/null </dev/null \
			|| echo "postgresql could not be installed; its tests will skip"; \
	fi
	@$(MAKE) -s clients >/dev/null 2>&1 || echo "the client libraries could not be installed; their tests will skip"
	@$(PIP) "lm_eval[hf,api]" >/dev/null 2>&1 || echo "lm-evaluation-harness could not be installed; its tests will skip"
	@$(PIP) -e ".[ray]" >/dev/null 2>&1 || echo "ray could not be installed; its tests will skip"
	@$(PIP) mlcroissant >/dev/null 2>&1 || echo "mlcroissant could not be installed; its test will skip"
	$(VENV)/bin/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m "slow and not gpu"

# Needs a CUDA device and PyTorch's CUDA build; without a device every test is skipped with this reason.
test-gpu: $(VENV)/.everything
	$(VENV)/bin/python -m pytest -m gpu

bench: $(VENV)/.everything
	$(VENV)/bin/python -m bench

docs: $(VENV)/.everything
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict

serve-docs: $(VENV)/.everything
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs serve

format: $(VENV)/.everything
	$(VENV)/bin/ruff format $(SOURCES)
	$(VENV)/bin/ruff check --fix $(SOURCES)

# Upgrade all dependencies and write their versions to constraints.txt; run it after a dependency has changed.
pins: $(VENV)/.everything
	$(VENV)/bin/python -m pip install -qq --upgrade --upgrade-strategy eager $(PIP_EXTRA) -e ".[test,dev,docs,bench]"
	{ sed -n '/^#/p' constraints.txt; $(VENV)/bin/python -m pip freeze --exclude-editable | sed 's/+.*//'; } > constraints.new
	mv constraints.new constraints.txt

# Client libraries of other projects for the tests of the server, in a separate environment.
clients: .clients/.complete

.clients/.complete: pyproject.toml
	$(PYTHON) -m venv .clients
	.clients/bin/python -m pip install -qq --disable-pip-version-check $(CLIENTS)
	@touch $@

clean:
	rm -rf $(VENV) .clients site dist .pytest_cache .ruff_cache

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Vita needs Python 3.11 or later; select it with make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -m venv $(VENV) \
		|| { rm -rf $(VENV); echo "Python's venv is missing; on Debian and Ubuntu: apt-get install python3-venv"; exit 1; }

$(VENV)/.runtime: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing Vita into $(VENV) (only at the first call; some minutes with a slow connection)"
	@$(PIP) -e .
	@touch $@

$(VENV)/.everything: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing Vita and its tools into $(VENV) (only at the first call; some minutes with a slow connection)"
	@$(PIP) -e ".[test,dev,docs,bench]"
	@touch $(VENV)/.runtime $@
