# `make demo` and `make test` need nothing but Python 3.11 with venv; they install the rest into .venv once.

PYTHON ?= python3
VENV := .venv
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check

.PHONY: demo test test-programs lint format install bundle clean

demo: $(VENV)/.installed-sim
	$(VENV)/bin/pinhole demo

test: $(VENV)/.installed-all test-programs
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile

# Some tests want a real MQTT broker and network namespaces. Without them they are skipped, and say so.
test-programs:
	@if ! PATH="$$PATH:/usr/sbin:/sbin" sh -c 'command -v mosquitto && command -v ip' >/dev/null; then \
		if command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
			apt-get update -q && apt-get install -y -q --no-install-recommends mosquitto iproute2; \
		else \
			echo "make: without mosquitto and iproute2 some tests are skipped (Debian: apt-get install mosquitto iproute2)" >&2; \
		fi; \
	fi

lint: $(VENV)/.installed-all
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-cache

format: $(VENV)/.installed-all
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

install: $(VENV)/.installed-all

# Trains the pocket bundle from a folder of photographs; docs/training.md says what each stage does.
bundle: $(VENV)/.installed-all
	@test -n "$(PHOTOGRAPHS)" || { echo "make: give PHOTOGRAPHS=folder-of-photographs" >&2; exit 2; }
	$(VENV)/bin/pinhole train all pocket --photographs "$(PHOTOGRAPHS)"
	rm -rf shared/bundles/pocket
	cp -R runs/pocket/pocket shared/bundles/pocket

# Debian keeps the part of venv that brings pip in a package of its own; ask for it only where it is missing.
$(VENV)/bin/python:
	@if ! $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null; then \
		if command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
			apt-get update -q && apt-get install -y -q python3-venv; \
		else \
			echo "make: $(PYTHON) has no venv module; install it (Debian: apt-get install python3-venv)" >&2; exit 1; \
		fi; \
	fi
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-sim: pyproject.toml | $(VENV)/bin/python
	$(PIP) install -e '.[sim]'
	touch $@

# Everything includes what the demo needs.
$(VENV)/.installed-all: pyproject.toml | $(VENV)/bin/python
	$(PIP) install -e '.[sim,train,dev]'
	touch $(VENV)/.installed-sim $@

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
