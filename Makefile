# What one does with hotfd's source. Every target sets up what it needs: see scripts/setup.sh.
#
#     make demo     a server under load is handed over; what happened is printed
#     make test     the tests: C under the sanitizers, then pytest    (ARGS="-k name" passes options on)
#     make explore  every interleaving of the handoff protocol, far beyond what make test visits: minutes
#     make networks the proof on bad networks, whole and with larger bounds: minutes; needs root
#     make hostile  a thousand new processes that say anything in any order, and the largest sizes: minutes
#     make faults   every fault at every step of a handoff: minutes; writes the tables of docs/proof-faults.md anew
#     make bench    measures, beside what others do, and writes docs/performance anew: a quarter of an hour    (ARGS=kv measures that)
#     make counts   counts what a frame, a connection and a moved one cost, beside what is allowed    (ARGS=--write allows it)
#     make lint     formats, types, layers
#     make fuzz     hostile input, for SECONDS (60) at each target; SEED=2 makes other input, TARGETS="toml yaml" less
#     make coverage which lines the tests execute, of hotfd/ and of csrc/    (ARGS as above)
#     make soak     hundreds of handoffs under load, and what every process holds meanwhile: a quarter of an hour
#     make matrix   chosen tests on each Python and event loop, as they are and with every check on: long
#     make build    a wheel, in dist/
#     make setup    only the environment
#     make clean    removes what the other targets have made, the environment too
#
# PYTHON=python3.12 make test uses that interpreter, in an environment of its own.

PYTHON ?= python3
ARGS ?=

# Of fuzz.
SECONDS ?= 60
SEED ?= 1
TARGETS ?=

# The default interpreter's environment is .venv, where editors look for it.
VENV := $(if $(filter-out python3,$(PYTHON)),build/venv-$(notdir $(PYTHON)),.venv)
BIN := $(VENV)/bin

# mypy reads an example together with the modules beside it, so each program is checked by itself.
PROGRAMS := $(wildcard examples/*.py scripts/*.py)

export PYTHON VENV

.PHONY: help setup demo explore test faults networks hostile lint build clean fuzz coverage soak matrix bench counts

help:
	@sed -n 's/^#     //p' Makefile

setup:
	@sh scripts/setup.sh

demo: setup
	@$(BIN)/python scripts/demo.py $(ARGS)

test: setup
	@PATH="$(CURDIR)/$(BIN):$$PATH" sh scripts/check_c.sh
	@sh scripts/test.sh $(BIN)/python $(ARGS)

networks: setup
	@sh scripts/test.sh $(BIN)/python -m long tests/integration/test_networks*.py $(ARGS)

hostile: setup
	@sh scripts/test.sh $(BIN)/python -m long tests/integration/test_hostile*.py $(ARGS)

fuzz: setup
	@$(MAKE) --no-print-directory -C tests/fuzz/csrc fuzz SECONDS=$(SECONDS) SEED=$(SEED)
	@$(BIN)/python -m tests.fuzz.run --seconds $(SECONDS) --seed $(SEED) $(TARGETS)

coverage: setup
	@sh scripts/coverage.sh $(BIN)/python $(ARGS)

faults: setup
	@$(BIN)/python -m tests.proof.faults $(ARGS)
	@sh scripts/test.sh $(BIN)/python -m long tests/integration/test_faults.py

soak: setup
	@sh scripts/test.sh $(BIN)/python -m long -q -s tests/soak tests/integration/test_leaks.py $(ARGS)

matrix: setup
	@$(BIN)/python scripts/matrix.py $(ARGS)

counts: setup
	@$(BIN)/python -m tests.performance $(ARGS)

bench: setup
	@$(BIN)/python -c 'import hiredis, redis' 2>/dev/null || \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]' || \
		echo 'bench: hiredis and redis cannot be installed: the scanners are compared without them' >&2
	@$(BIN)/python -m scripts.bench $(ARGS)

explore: setup
	@$(BIN)/python -m tests.proof $(ARGS)
	@sh scripts/test.sh $(BIN)/python -m long tests/unit/test_bus_exploration.py

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	@for program in $(PROGRAMS); do echo "mypy $$program" && $(BIN)/mypy --no-error-summary "$$program" || exit 1; done
	$(BIN)/mypy -p scripts.bench
	$(BIN)/clang-format --dry-run -Werror csrc/*.c csrc/*.h tests/csrc/*.c tests/csrc/*.h \
		tests/fuzz/csrc/*.c tests/fuzz/csrc/*.h scripts/bench/*.c tests/performance/*.c
	$(BIN)/python scripts/check_layers.py

build: setup
	@$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	@ls dist

clean:
	rm -rf .venv build dist ./*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -f hotfd/_core/_native.c hotfd/_core/_native*.so
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
