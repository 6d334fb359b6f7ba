# Everything runs in .venv inside the checkout; `make demo` and `make test` set it up by themselves.
# A fresh machine needs Python 3.11 or newer (with its venv module) and make, nothing else.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-browser test-slurm test-long test-chaos simulate soak soak-table bench docs images screenshots lint format vendor clean

PYTHON ?= $(shell command -v python3.11 || command -v python3 || echo python3.11)
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
# As many test processes as cores, a file whole in one of them: its tests share a server.
BESIDE := -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder
# The stamp's name is a hash of what decides the set-up: it is stale exactly when that has changed.
STAMP := .venv/.set-up-$(firstword $(shell cat pyproject.toml constraints.txt | cksum))

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1|/p' $(MAKEFILE_LIST) | column -t -s '|'

setup: $(STAMP) ## Create .venv with everything pinned in constraints.txt

# torch goes first and alone: where a machine offers a build of its own (CPU, another CUDA), pip then
# takes that one, and what follows finds it installed instead of looking for the newest.
$(STAMP):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Tunesmith needs Python 3.11 or newer, and '$(PYTHON)' is not:" \
	    "$$($(PYTHON) --version 2>&1 || true). Try: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || { \
	  rm -rf .venv; echo "No virtual environment: on Debian or Ubuntu, apt install python3-venv" >&2; exit 1; }
	@echo "Setting up .venv (a few minutes, once)"
	@$(PIP) install --quiet --no-compile -c constraints.txt torch==2.13.0
	@$(PIP) install --quiet --no-compile -c constraints.txt -e '.[worker,postgres,test,lint,mlflow,wandb,s3,ray,docs]'
	@$(BIN)/python -m compileall -qq -j 0 .venv/lib studies service workers tests || true # pip compiles on one core
	@rm -f .venv/.set-up-*
	@touch $@

demo: $(STAMP) ## A real study on this machine: a service, two workers, four stages, at most 4 minutes
	@$(BIN)/tunesmith demo

test: $(STAMP) ## Unit, contract, property, API and end-to-end tests, on SQLite and PostgreSQL
	$(BIN)/python -m pytest $(BESIDE) -m "not long and not browser and not chaos and not slurm"

# Root on Debian or Ubuntu gets what is missing; anybody else is told what is skipped.
test-browser: $(STAMP) ## All browser tests; fetches Chromium and nginx where apt-get may
	@if [[ ! -x /usr/bin/chromium || ! -x /usr/sbin/nginx ]] && [[ $$EUID -eq 0 ]] && command -v apt-get > /dev/null; then \
	  apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium nginx-light > /dev/null || \
	    echo "Chromium or nginx could not be installed; what needs them is skipped" >&2; fi
	$(BIN)/python -m pytest $(BESIDE) tests/ui/browser tests/ui/test_browser*.py

screenshots: $(STAMP) ## Take the README's pictures of the dashboard anew, of a study that is trained for them
	$(BIN)/python tests/screenshots.py

# A Slurm of one node on this machine, started by the tests themselves; installed where apt-get may.
test-slurm: $(STAMP) ## Workers as a job array of a real Slurm; fetches Slurm where apt-get may
	@if [[ ! -x /usr/sbin/slurmctld ]] && [[ $$EUID -eq 0 ]] && command -v apt-get > /dev/null; then \
	  apt-get update -qq && apt-get install -y -qq --no-install-recommends slurm-wlm munge > /dev/null || \
	    echo "Slurm could not be installed; what needs it is skipped" >&2; fi
	$(BIN)/python -m pytest -m slurm tests/workers/test_slurm.py

test-long: $(STAMP) ## The tests that need minutes
	$(BIN)/python -m pytest $(BESIDE) -m long

test-chaos: $(STAMP) ## A minute of chaos on each database; make soak is the long form
	$(BIN)/python -m pytest -m chaos

simulate: $(STAMP) ## A deployment in one process, with faults: SEED=17, or SEEDS=100 from there on
	cd tests && ../$(BIN)/python -m simulation --seed $(or $(SEED),0) --seeds $(or $(SEEDS),1)

soak: $(STAMP) ## Real processes under chaos: MINUTES=20 DB=postgres SEEDED=100000 MORE='--pace 2'; into .soak
	cd tests && ../$(BIN)/python -m soak --minutes $(or $(MINUTES),2) --database $(or $(DB),sqlite) \
	  --seeded $(or $(SEEDED),0) --into ../.soak $(MORE)

soak-table: ## What the last soaks on either database came to, into docs/measured.md
	cd tests && ../$(BIN)/python -m soak --table ../.soak/*.json --document ../docs/measured.md

bench: $(STAMP) ## How fast requests, suggestions, snapshots and trainings are; under an hour on an idle machine
	@missed=0; for one in cycles reports flat planning "suggestions --trials 1000 --seconds 60 --pairs 12" \
	  "snapshots --rounds 3" worker_overhead plain_loop; do \
	  set -- $$one; script=$$1; shift; $(BIN)/python tests/benchmarks/$$script.py "$$@" || missed=1; done; \
	exit $$missed

docs: $(STAMP) ## The documents as pages, into site/; SERVE=1 shows them while they are written
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs $(if $(SERVE),serve,build --strict --quiet)

images: ## Build the images and bring docker-compose.yml up without a Docker engine (as root on Debian; minutes)
	tests/images/run.sh

lint: $(STAMP) ## ruff, and mypy --strict on all packages
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy -p tunesmith_studies -p tunesmith_service -p tunesmith_workers

format: $(STAMP) ## Let ruff lay the code out
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

vendor: $(STAMP) ## Fetch the dashboard's front-end files anew, as vendor.lock.json says (needs npm)
	$(BIN)/python -m tunesmith_service.ui.vendor

clean: ## Remove what the demo and the tools left (not .venv)
	rm -rf .demo .soak .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find studies service workers tests -name __pycache__ -type d -prune -exec rm -rf {} +
