# Everything runs in .venv, which `make setup` makes from requirements.lock. `make help` lists the targets.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# The environment's programs and what Spark and TensorFlow read; a shell can source the same file.
IN_ENV = . .ci/env;

.PHONY: help setup lint format test unit demo bench lock clean

help: ## list the targets
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1|/' | column -t -s '|'

setup: ## make or refresh .venv (minutes the first time, nothing when it is up to date)
	@python3 .ci/setup

lint: setup ## ruff, mypy and the import contracts
	@$(IN_ENV) ruff check
	@$(IN_ENV) ruff format --check
	@$(IN_ENV) mypy
	@$(IN_ENV) lint-imports

format: setup ## rewrite the sources as ruff wants them
	@$(IN_ENV) ruff check --fix
	@$(IN_ENV) ruff format

test: lint ## lint and every test, those of whole systems included
	@# Three on two cores: a quarter of the time they wait, for Airflow, for pods and for deadlines.
	@$(IN_ENV) python -m pytest -n 3 --no-loadscope-reorder

unit: setup ## the tests that need neither Airflow nor an engine
	@$(IN_ENV) python -m pytest tests/unit

demo: setup ## the example from data to drift and retraining; EXIT=1 ends it when it is through, KUBE=1 trains in pods
	@$(IN_ENV) airflow-ml demo $(if $(EXIT),--exit) $(if $(KUBE),--pods)

bench: setup ## the measurements
	@$(IN_ENV) python -m tests.bench

lock: ## compile the locks anew from pyproject.toml
	@python3 .ci/setup --lock

clean: ## remove build results and caches (.venv stays)
	@rm -rf build dist .pytest_cache .hypothesis .mypy_cache .ruff_cache .import_linter_cache spark-warehouse metastore_db derby.log
	@find . -path ./.venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
