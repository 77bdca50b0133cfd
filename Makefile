# Needs Python 3.11+ (with venv) and make, nothing else: the rest comes into .venv, pinned by
# requirements.lock. `make help` lists what there is.

PYTHON ?= python3
JOBS ?= 2
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
TESTED := $(VENV)/.tested
SOURCES := $(shell find $(wildcard authz tests envoy k8s loadtest) -type f -not -path '*/__pycache__/*' \
	-not -path 'loadtest/results/*') \
	$(wildcard Makefile pyproject.toml requirements.lock *.md .gitignore)

PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input

# Or each of the many processes that tests and demo start would compile all packages anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo test check lint format fuzz chaos loadtest proto corpus lock clean

help: ## this list
	@echo "make TARGET [ARGS=...]"
	@sed -n 's/^\([a-z]*\):.*## /  \1\t/p' Makefile | expand -t 12

demo: $(INSTALLED) ## a tour with a real Envoy; stays up to try (ARGS=--once: only the tour)
	@$(BIN)/authz demo $(ARGS)

# A full run that passes is remembered until a file changes. The time it stands for is its start.
# Side by side, since most tests wait for something; each has clusters and ports of its own.
test: $(INSTALLED) ## every test (ARGS="-k feed": some of them; JOBS=1: one at a time)
	@touch $(TESTED).running
	@$(BIN)/python -m pytest --numprocesses $(JOBS) --dist worksteal $(ARGS)
	@$(if $(ARGS),rm,mv) $(TESTED).running $(if $(ARGS),,$(TESTED))

check: lint $(TESTED) ## format, lint and types, and the tests unless they passed on these very files
	@echo "make check: format, lint, types and tests are in order."

$(TESTED): $(SOURCES) | $(INSTALLED)
	@$(MAKE) --no-print-directory test ARGS=

lint: $(INSTALLED) ## format, lint and types only
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

format: $(INSTALLED) ## put every file in the house format
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

fuzz: $(INSTALLED) ## look for input that breaks what reads it, a minute each (ARGS="--seconds 600")
	@PYTHONPATH=tests $(BIN)/python -m fuzz $(ARGS)

chaos: $(INSTALLED) ## break a cluster under load, a fault at a time: four minutes (ARGS="--seconds 3600")
	@PYTHONPATH=tests $(BIN)/python -m chaos $(ARGS)

loadtest: $(INSTALLED) ## what a check costs, against its targets: four minutes (ARGS=--all: everything)
	@$(BIN)/python -m loadtest $(ARGS)

proto: $(INSTALLED) ## compile authz/envoy_api/*.proto
	@$(BIN)/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. authz/envoy_api/*.proto

corpus: $(INSTALLED) ## capture tests/data/check_requests from the real Envoy again
	@PYTHONPATH=tests $(BIN)/python -m support.corpus

lock: ## resolve requirements.lock, and k8s/requirements.lock, anew (ARGS=--upgrade: to the newest versions)
	@tools=$$(mktemp -d) && trap 'rm -rf "$$tools"' EXIT && \
	$(PYTHON) -m venv "$$tools" && "$$tools/bin/pip" install --quiet --disable-pip-version-check uv && \
	"$$tools/bin/uv" pip compile pyproject.toml --all-extras --universal --python-version 3.11 \
		--generate-hashes --no-emit-index-url --custom-compile-command "make lock" \
		--output-file requirements.lock --quiet $(ARGS) && \
	"$$tools/bin/uv" pip compile pyproject.toml --extra tokens --universal --python-version 3.11 \
		--constraint requirements.lock --generate-hashes --no-emit-index-url \
		--custom-compile-command "make lock" --output-file k8s/requirements.lock --quiet && \
	echo "requirements.lock: $$(grep -c '^[a-z].*==' requirements.lock) packages"

clean: ## remove the virtual environment and all caches
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find authz tests loadtest -name __pycache__ -type d -prune -exec rm -rf {} +

# One dot for each package. The exit code of a pipe is its last command's, hence the second file.
$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "make: authz needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) -V 2>/dev/null || echo missing);" \
			"name a newer one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV) || { \
		echo "make: $(PYTHON) has no working venv module (Debian: apt-get install python3-venv)" >&2; \
		rm -rf $(VENV); exit 1; }
	@rm -f $(INSTALLED) $(INSTALLED).new
	@printf 'Installing %s pinned packages into $(VENV) ' "$$(grep -c '^[a-z].*==' requirements.lock)"
	@{ $(PIP) install --require-hashes --only-binary :all: -r requirements.lock \
		&& $(PIP) install --quiet --no-deps --no-build-isolation --editable . \
		&& touch $(INSTALLED).new; } \
		| awk '/^Collecting|already satisfied/ { printf "."; fflush() } \
			/^Installing/ { printf " unpacking"; fflush() } END { print "" }'
	@mv $(INSTALLED).new $(INSTALLED) 2>/dev/null || { echo "make: the installation failed" >&2; exit 1; }
