# Needs Python 3.11 or later, with its venv module, and make. Everything else goes into .venv.

PYTHON ?= python3
BIN := .venv/bin
UV := $(CURDIR)/.venv/bin/uv
.DEFAULT_GOAL := help

# uv's cache is shared between projects; without a home to keep it in, it stays in .venv.
export UV_CACHE_DIR ?= $(shell test -d "$$HOME" && test -w "$$HOME" || echo "$(CURDIR)/.venv/cache")
ifeq ($(UV_CACHE_DIR),)
unexport UV_CACHE_DIR
endif
# Where the machine has certificates of its own, a hospital's proxy may sign with one of them.
export UV_SYSTEM_CERTS ?= $(if $(wildcard /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt),1,0)
# A uv of one's own keeps to the folder's .venv, whatever is active in the shell.
export VIRTUAL_ENV := $(CURDIR)/.venv
export UV_PYTHON_DOWNLOADS := never
export PIP_DISABLE_PIP_VERSION_CHECK := 1

LOCK := $(UV) pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-header --quiet

.PHONY: help setup run test lint up docs lock clean

help: ## Show what can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-6s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/installed ## Install everything into .venv
	@grep -qsx 'DAGSTER_HOME="$(CURDIR)"' .env || { \
		grep -sv '^DAGSTER_HOME=' .env > .env.new; echo 'DAGSTER_HOME="$(CURDIR)"' >> .env.new; mv .env.new .env; }

run: setup ## Run the main job on demo data and show the ten patients to call first
	@$(BIN)/medscore run

test: .venv/tools setup ## Run all tests
	@$(BIN)/pytest

lint: .venv/tools setup ## Check style, types and the direction of imports
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

up: setup ## Start PostgreSQL, MLflow and Dagster; Ctrl-C stops them
	@$(BIN)/medscore up

docs: setup ## Write the reference pages anew from the code
	@$(BIN)/python -m docs.generate

lock: .venv/installed ## Choose the newest allowed versions and write both lock files
	@$(LOCK) --upgrade --extra setup --output-file requirements.lock
	@$(LOCK) --upgrade --all-extras --constraint requirements.lock --output-file requirements-tools.lock

clean: ## Remove what was installed and what tools left behind; data in .medscore stay
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis *.egg-info build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# uv comes from the lock like all else, so its version and hashes stand in one place.
.venv/installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "MedScore needs Python 3.11 or later. Install it, or name it: make PYTHON=python3.12" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv >/dev/null 2>&1 || { rm -rf .venv; \
		echo "Python cannot make .venv. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@test -x $(UV) || { \
		awk '/^uv==/ {found=1} found {print} found && !/\\$$/ {exit}' requirements.lock > .venv/uv.lock && \
		$(BIN)/python -m pip install --quiet --require-hashes --no-deps -r .venv/uv.lock; }
	@echo "Installing the packages of requirements.lock"
	@$(UV) pip sync --compile-bytecode --require-hashes requirements.lock
	@$(UV) pip install --quiet --no-deps --no-build-isolation --editable .
	@rm -f .venv/tools
	@touch $@

# What only tests and development need, Spark and Ray with them, over what runs.
.venv/tools: requirements-tools.lock .venv/installed
	@echo "Installing the packages of requirements-tools.lock"
	@$(UV) pip install --compile-bytecode --require-hashes --requirements requirements-tools.lock
	@touch $@
