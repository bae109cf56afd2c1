# `make demo` and `make test` set everything up themselves, given Python 3.11 to 3.13 and the network.
# PYTHON=… chooses the interpreter, VENV=… the environment's folder.

PYTHON ?= python3
VENV ?= .venv
export ORT_DISABLE_TELEMETRY = 1
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
OTHER_PYTHONS := 3.11 3.12 3.13
PYTEST := $(BIN)/python -m pytest
# Tests mostly wait for brokers and workers: two at a time take half as long, each with brokers of its own.
SIDE_BY_SIDE := -n 2 --dist worksteal
SUITES := tests/unit tests/contract tests/hostile
# What `make fuzz` fuzzes, for how long each, and where corpora and findings are kept.
FUZZ ?= json arrow raw headers
FUZZ_S ?= 600
FUZZ_DIR ?= .fuzz
COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-header --no-annotate $(UPGRADE)

.PHONY: help demo test lint suites test-pythons test-torch test-tensorflow framework-tests simulate faults overload
.PHONY: fuzz bench gpu audit lock clean
.DELETE_ON_ERROR:

help:
	@echo "make demo          start a Kafka and a worker, send real images, print predictions and where time went"
	@echo "make test          style, types and every test"
	@echo "make lint          style and types alone"
	@echo "make test-pythons  unit and contract suites on each other Python $(OTHER_PYTHONS) that is installed"
	@echo "make test-torch    what needs PyTorch, in an environment of its own (6 GB); make test-tensorflow: TensorFlow (2 GB)"
	@echo "make simulate      100,000 random schedules of faults in virtual time; FROM=S begins at another seed"
	@echo "make faults        every fault in its long form on a real broker, and the table of what came of it: 25 minutes"
	@echo "make overload      ten minutes at twice the capacity"
	@echo "make bench         all figures beside their peers, pictures in ops/plots: an hour"
	@echo "make gpu           on a GPU machine: the tests that need one, and what the way through Kafka costs there"
	@echo "make audit         what is locked: pins, hashes, licences, and known vulnerabilities where one can ask"
	@echo "make fuzz          coverage-guided fuzzing, FUZZ_S=600 seconds of each of FUZZ=\"$(FUZZ)\""
	@echo "make lock          versions and hashes anew from pyproject.toml; UPGRADE=--upgrade takes the newest"
	@echo "make clean         remove what these made"

demo: $(STAMP)
	$(BIN)/sluice demo

test: lint
	$(PYTEST) $(SIDE_BY_SIDE)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

suites: $(STAMP)
	$(PYTEST) $(SIDE_BY_SIDE) $(SUITES)

test-pythons:
	@for version in $(OTHER_PYTHONS); do $(MAKE) --no-print-directory test-$$version || exit 1; done

# An interpreter may be on PATH, or one of pyenv's that is not selected.
test-3.%:
	@for python in python3.$* $${PYENV_ROOT:-$$HOME/.pyenv}/versions/3.$*.*/bin/python; do \
		if "$$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, $*))' 2>/dev/null; then \
			echo "Python 3.$*: $$python"; \
			exec $(MAKE) --no-print-directory suites PYTHON="$$python" VENV=.venv-3.$*; \
		fi; \
	done; echo "Python 3.$* is not installed: its suites did not run"

simulate: $(STAMP)
	$(BIN)/python -m tests.simulate --schedules 100000 --from $(or $(FROM),0)

# Frameworks of gigabytes, which `make test` does without: each in an environment of its own.
test-torch:
	$(MAKE) --no-print-directory framework-tests VENV=.venv-torch FRAMEWORK="torch,import-torch" BESIDE=torchvision

test-tensorflow:
	$(MAKE) --no-print-directory framework-tests VENV=.venv-tensorflow FRAMEWORK=import-tf

framework-tests: $(STAMP)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-build-isolation -e '.[$(FRAMEWORK)]' $(BESIDE)
	$(PYTEST) tests/unit/infer tests/unit/models/test_imports.py

bench: $(STAMP)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-build-isolation -e '.[bench]'
	$(BIN)/sluice bench throughput --plot ops/plots/throughput.svg
	$(BIN)/sluice bench throughput --arrow
	$(BIN)/sluice bench throughput --arrow-bytes
	$(BIN)/sluice bench throughput --heavy
	$(BIN)/sluice bench latency --plot ops/plots/latency.svg
	$(BIN)/sluice bench tracing
	$(BIN)/sluice bench guarantees
	$(BIN)/sluice bench sequences
	$(BIN)/sluice bench slo --plot ops/plots/slo.svg
	$(BIN)/sluice bench overload
	$(BIN)/sluice bench scaling --plot ops/plots/scaling.svg

# TensorRT is what the machine has (sluice[gpu], or a container image's own); without a GPU it says so and fails.
gpu: $(STAMP)
	$(PYTEST) tests/gpu
	$(BIN)/python -m tests.gpu

audit: $(STAMP)
	$(BIN)/python ops/audit.py

fuzz: $(STAMP)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-build-isolation -e '.[fuzz]'
	for target in $(FUZZ); do $(BIN)/python -m tests.hostile.fuzz $$target $(FUZZ_DIR) $(FUZZ_S) || exit 1; done

faults: $(STAMP)
	$(PYTEST) tests/fault --faults --fault-report .faults.json

overload: $(STAMP)
	$(PYTEST) tests/fault/test_overload.py --overload --timeout 1800 --fault-report .overload.json

$(STAMP): requirements-dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' || \
		{ echo "Sluice needs Python 3.11 to 3.13; choose one with make PYTHON=…" >&2; exit 1; }
	@if command -v uv >/dev/null; then \
		set -x; uv venv --quiet --clear --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')" $(VENV) && \
		uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements-dev.lock && \
		uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .; \
	else \
		set -x; $(PYTHON) -m venv --clear $(VENV) && \
		$(BIN)/python -m pip install --quiet --require-hashes -r requirements-dev.lock && \
		$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .; \
	fi
	@touch $@

lock: $(STAMP)
	$(COMPILE) pyproject.toml --extra dev --output-file requirements-dev.lock
	$(COMPILE) pyproject.toml --constraints requirements-dev.lock --output-file requirements.lock
	$(COMPILE) --group build --constraints requirements-dev.lock --output-file requirements-build.lock
	@! grep -n '://' requirements*.lock

clean:
	rm -rf .venv .venv-3.* .venv-torch .venv-tensorflow build dist .fuzz .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find pipeline topics tests ops -name __pycache__ -type d -exec rm -rf {} +
