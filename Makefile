# Everything runs from a virtual environment of its own; no Docker, no root, no server needed.
# ARGS is passed on, for example: make demo ARGS=--exit

SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
# The first interpreter that is new enough; another one: make setup PYTHON=/path/to/python
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$python"; exit; }; \
	done; echo python3)
ARGS ?=

.PHONY: help setup up down demo test proofs browser lint format bench loadbench chaos fuzz machines overload soak alerts requirements

help:
	@echo "make up        the whole stack, until Ctrl-C"
	@echo "make demo      the whole stack and 60 sample orders; ARGS=--exit stops after the verdict"
	@echo "make test      every test but the proofs and those in a browser"
	@echo "make proofs    short proofs under load: a minute of orders, races under faults, a new version of the"
	@echo "               workers, a backup, a cut network, fuzzing"
	@echo "make browser   the dashboard's tests in a headless Chromium; screenshots in var/screenshots"
	@echo "make lint      format, lint and types"
	@echo "make bench     the performance table"
	@echo "make loadbench what the load generator itself can do"
	@echo "make chaos     kills every part in turn under load, and prints what it cost"
	@echo "make alerts    checks the alert rules and fires each once; needs promtool"
	@echo "make machines  every part on a machine of its own, and their networks cut in turn (root only)"
	@echo "make overload  60 s above the capacity: rejected starts, kept limit, recovery, memory"
	@echo "make soak      30 minutes at 6 orders per second: late orders, memory, disk; ARGS='--minutes 5'"
	@echo "make fuzz      every kind of request that the API's own documentation allows, and does not"
	@echo "make setup     the virtual environment alone"

setup: $(VENV)/.complete
	@:

# Made anew when requirements.txt changes; the stamp is written last, so an interrupted set-up is repeated.
$(VENV)/.complete: requirements.txt
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "Python 3.11 or newer is needed, and $(PYTHON) is not it; install one, or name it: make setup PYTHON=/path/to/python" >&2; \
		exit 2; }
	@# --clear would empty what a link points to, and then refuse the link.
	@test ! -L "$(VENV)" || { \
		echo "$(VENV) is a link to another environment, which is left alone; install requirements.txt there" >&2; \
		exit 2; }
	@echo "Installing the packages of requirements.txt into $(VENV), once"
	@"$(PYTHON)" -m venv --clear "$(VENV)" || { \
		echo "The virtual environment could not be made; if Python's venv module is missing, install it (on Debian: python3-venv)" >&2; \
		exit 2; }
	@"$(BIN)/python" -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements.txt
	@# The project itself, for the command `orders`. Its build needs nothing that is not installed above.
	@"$(BIN)/python" -m pip install --quiet --disable-pip-version-check --no-index --no-deps --no-build-isolation --editable .
	@touch "$@"

up: setup
	@$(BIN)/python -m orchestrator up $(ARGS)

down: setup
	@$(BIN)/python -m orchestrator down

demo: setup
	@$(BIN)/python -m loadtest.demo $(ARGS)

# Most tests wait for something: several at once. Those that hold the system to its limit come afterwards, one
# by one. (5: none of those that were asked for is among them, which is wrong only of both.)
test: setup
	@$(BIN)/python -m pytest -n 5 --dist loadgroup --no-loadscope-reorder -m "not alone and not proof" $(ARGS); \
	first=$$?; [ $$first = 0 ] || [ $$first = 5 ] || exit $$first; \
	$(BIN)/python -m pytest -m "alone and not proof" $(or $(ARGS),tests/chaos); \
	second=$$?; [ $$second = 0 ] || [ $$first$$second = 05 ] || exit $$second

proofs: setup
	@$(BIN)/python -m pytest -m proof $(ARGS)

browser: setup
	@$(BIN)/python -m pytest -o addopts="--strict-markers --strict-config -ra" tests/browser $(ARGS)

lint: setup
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: setup
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: setup
	@$(BIN)/python -m loadtest.bench $(ARGS)
	@$(BIN)/python -m dashboard.bench

loadbench: setup
	@$(BIN)/python -m tests.load.bench

chaos: setup
	@$(BIN)/python -m tests.chaos $(ARGS)

# Needs promtool, which comes with Prometheus.
alerts:
	@promtool check config orchestrator/monitoring/prometheus/prometheus.yml
	@# The same rules; the key that it names is in the container alone.
	@promtool check config --syntax-only orchestrator/monitoring/prometheus/containers.yml
	@promtool test rules orchestrator/monitoring/prometheus/tests/orders_test.yml

machines: setup
	@$(BIN)/python -m tests.chaos.machines $(ARGS)

overload: setup
	@$(BIN)/python -m loadtest.proofs.overload $(ARGS)

soak: setup
	@$(BIN)/python -m loadtest.proofs.soak $(ARGS)

fuzz: setup
	@$(BIN)/python -m tests.fuzz $(ARGS)

# Pins everything that pyproject.toml asks for, with hashes, for every platform. Needs uv. The image gets the
# same versions, without the embedded servers and the tools of development.
COMPILE := uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --custom-compile-command "make requirements" --quiet
IMAGE_REQUIREMENTS := orchestrator/deployment/requirements.txt

requirements:
	$(COMPILE) --extra embedded --group dev --upgrade --output-file requirements.txt
	$(COMPILE) --constraint requirements.txt --output-file $(IMAGE_REQUIREMENTS)
