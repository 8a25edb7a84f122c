# Everything runs in the virtual environment .venv, without Docker, root or a server.
# ARGS is passed to the command, for example: make demo ARGS=--exit

SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
# The first suitable interpreter. To use another one: make setup PYTHON=/path/to/python
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	"$$python" -I -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$python"; exit; }; \
	done; echo python3)
ARGS ?=

# Settings of other programs must not break the environment or the commands. pip keeps those of its index.
PIP_INDEX := PIP_CONFIG_FILE PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_NO_INDEX PIP_FIND_LINKS PIP_TRUSTED_HOST PIP_PROXY \
	PIP_CERT PIP_CLIENT_CERT PIP_KEYRING_PROVIDER PIP_NO_INPUT PIP_CACHE_DIR PIP_NO_CACHE_DIR PIP_TIMEOUT \
	PIP_DEFAULT_TIMEOUT PIP_RETRIES PIP_USE_FEATURE PIP_USE_DEPRECATED
unexport $(filter-out $(PIP_INDEX),$(filter PIP_%,$(.VARIABLES))) $(filter-out PYTHON,$(filter PYTHON%,$(.VARIABLES)))
# A configuration file of pip can set the same.
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check --no-user --target=

.PHONY: help setup up down demo test proofs browser approve-screenshots pictures stage-picture lint format bench loadbench chaos fuzz machines overload soak alerts compose-proof requirements

help:
	@echo "make up        start the stack; Ctrl-C stops it"
	@echo "make demo      start the stack and 60 sample orders; ARGS=--exit stops after the verdict"
	@echo "make test      run all tests except proofs and browser tests"
	@echo "make proofs    run the tests under load: a minute of orders, races under faults, an upgrade of the"
	@echo "               workers, a backup, a network failure, fuzzing"
	@echo "make browser   test the dashboard in a headless Chromium; screenshots in var/screenshots"
	@echo "make approve-screenshots  store the current screenshots of the pages as approved"
	@echo "make pictures  take the pictures of the docs from a load test"
	@echo "make stage-picture  record the picture of the README, the page Stage, in a headless Chromium"
	@echo "make lint      check format, lint, types and import contracts"
	@echo "make bench     print the performance table"
	@echo "make loadbench measure the capacity of the load generator"
	@echo "make chaos     kill every component in turn under load and print the effects"
	@echo "make alerts    test the alert rules; needs promtool"
	@echo "make machines  cut the network of every component in turn (root only)"
	@echo "make overload  60 s above the capacity: rejected starts, kept limit, recovery, memory"
	@echo "make soak      30 minutes at 6 orders per second: late orders, memory; ARGS='--minutes 5'"
	@echo "make compose-proof  build the images and run docker-compose.yml in a Docker engine (root only)"
	@echo "make fuzz      send valid and invalid requests, generated from the OpenAPI document"
	@echo "make setup     create the virtual environment"

setup: $(VENV)/.complete
	@:

# Created again if requirements.txt changes. The stamp is written last, so an interrupted set-up is repeated.
$(VENV)/.complete: requirements.txt
	@test -n "$(VENV)" || { echo "VENV is empty; set it to a directory" >&2; exit 2; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "Python 3.11 or newer is needed, and $(PYTHON) is older; install it, or run: make setup PYTHON=/path/to/python" >&2; \
		exit 2; }
	@# The directory is replaced, so it must be empty, or the environment of this checkout.
	@test ! -L "$(VENV)" || { \
		echo "$(VENV) is a symbolic link to another environment; install requirements.txt there" >&2; \
		exit 2; }
	@test ! -e "$(VENV)" || test -z "$$(ls -A "$(VENV)")" \
		|| { test "$(VENV)" = .venv && test -f .venv/pyvenv.cfg; } \
		|| test "$$(cat "$(VENV)/.checkout" 2>/dev/null)" = "$(CURDIR)" || { \
		echo "$(VENV) is not the virtual environment of this checkout; set VENV to another directory, or remove it" >&2; \
		exit 2; }
	@echo "Installing the packages of requirements.txt into $(VENV), once"
	@rm -rf "$(VENV)" && mkdir -p "$(VENV)" && echo "$(CURDIR)" > "$(VENV)/.checkout"
	@"$(PYTHON)" -m venv "$(VENV)" || { \
		echo "The virtual environment could not be created; if Python's venv module is missing, install it (on Debian: python3-venv)" >&2; \
		exit 2; }
	@"$(BIN)/python" $(PIP_INSTALL) --require-hashes --requirement requirements.txt
	@# The project itself, for the command `orders`. Its build needs nothing that is not installed above.
	@"$(BIN)/python" $(PIP_INSTALL) --no-index --no-deps --no-build-isolation --editable .
	@touch "$@"

up: setup
	@$(BIN)/python -m orchestrator up $(ARGS)

down: setup
	@$(BIN)/python -m orchestrator down

demo: setup
	@$(BIN)/python -m loadtest.demo $(ARGS)

# Most tests mostly wait, so several run in parallel. Tests marked `alone` measure times or need both cores and
# run one by one after them. (Exit code 5: no test selected, which is an error only for both runs together.)
test: setup
	@$(BIN)/python -m pytest -n 5 --dist loadgroup --no-loadscope-reorder -m "not alone and not proof" $(ARGS); \
	first=$$?; [ $$first = 0 ] || [ $$first = 5 ] || exit $$first; \
	$(BIN)/python -m pytest -m "alone and not proof" $(or $(ARGS),tests/chaos tests/load tests/races); \
	second=$$?; [ $$second = 0 ] || [ $$first$$second = 05 ] || exit $$second

proofs: setup
	@$(BIN)/python -m pytest -m proof $(ARGS)

# Two browsers, each with a stack: the tests mostly wait.
browser: setup
	@$(BIN)/python -m pytest -n 2 -o addopts="--strict-markers --strict-config -ra" tests/browser $(ARGS)

approve-screenshots: setup
	@rm -f tests/browser/approved/*.png
	@$(BIN)/python -m pytest -o addopts="--strict-markers --strict-config -ra" tests/browser/test_views.py \
		--approve-screenshots $(ARGS)

pictures: setup
	@$(BIN)/python -m tests.browser.pictures

stage-picture: setup
	@$(BIN)/python -m tests.browser.record_stage

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
	@$(BIN)/python -m tests.bench

loadbench: setup
	@$(BIN)/python -m tests.load.bench

chaos: setup
	@$(BIN)/python -m tests.chaos $(ARGS)

# promtool is part of Prometheus.
alerts:
	@promtool check config orchestrator/monitoring/prometheus/prometheus.yml
	@# Syntax only: the file with the API key exists in the container only.
	@promtool check config --syntax-only orchestrator/monitoring/prometheus/containers.yml
	@promtool test rules orchestrator/monitoring/prometheus/tests/orders_test.yml

machines: setup
	@$(BIN)/python -m tests.chaos.machines $(ARGS)

overload: setup
	@$(BIN)/python -m loadtest.proofs.overload $(ARGS)

soak: setup
	@$(BIN)/python -m loadtest.proofs.soak $(ARGS)

compose-proof: setup
	@$(BIN)/python -m tests.compose $(ARGS)

fuzz: setup
	@$(BIN)/python -m tests.fuzz $(ARGS)

# Pins all dependencies of pyproject.toml, with hashes, for every platform. Needs uv. The images get the same
# versions without the embedded servers and the development tools. Locust depends on pytest for its plugin only.
COMPILE := uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --custom-compile-command "make requirements" --quiet
IMAGE_REQUIREMENTS := orchestrator/deployment/requirements
NOT_IN_IMAGE := --no-emit-package pytest --no-emit-package iniconfig --no-emit-package pluggy

requirements:
	$(COMPILE) --extra full --extra stripe --extra embedded --group dev --upgrade --output-file requirements.txt
	$(COMPILE) --constraint requirements.txt --extra stripe --output-file $(IMAGE_REQUIREMENTS).txt
	$(COMPILE) --constraint requirements.txt --extra full --extra stripe $(NOT_IN_IMAGE) --output-file $(IMAGE_REQUIREMENTS)-full.txt
