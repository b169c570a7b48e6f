# `make bench` and `make test` do all the set-up by themselves. `make help` lists the rest.
DATASET ?= digits
VENV    ?= .venv
BIN     := $(VENV)/bin
STAMP   := $(VENV)/.installed
# The first of these that is 3.11 to 3.13.
PYTHON  ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$p && break; done)

FLAGS := $(if $(METHODS),--methods "$(METHODS)") $(if $(SCENARIOS),--scenarios "$(SCENARIOS)") \
	$(if $(SEEDS),--seeds "$(SEEDS)") $(if $(DEVICE),--device "$(DEVICE)") $(if $(JOBS),--jobs "$(JOBS)") \
	$(if $(filter-out 0,$(QUICK)),--quick) $(foreach s,$(SET),--set "$(s)")

.DEFAULT_GOAL := help
.PHONY: help setup bench report test slow lint speed

help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## */make \1\t/' | expand -t 16
	@echo 'bench takes DATASET=digits|mnist|fashion-mnist|cifar10|… METHODS=camu,finetune|all SCENARIOS=class-8'
	@echo 'SEEDS=0-4 DEVICE=cpu|cuda:0 JOBS=2 QUICK=1 SET="camu.lr_ce=1e-4 recipe.epochs=5"'

bench: $(STAMP)  ## run a suite as far as it is not done, then show tables and draw figures
	$(BIN)/unlearnbench run "$(DATASET)" $(FLAGS)

report: $(STAMP)  ## rebuild tables and figures of every suite that was run, from stored rows
	$(BIN)/unlearnbench report

test: $(STAMP)  ## the tests (minutes)
	OMP_NUM_THREADS=1 $(BIN)/python -P -m pytest -q -m "not slow"

slow: $(STAMP)  ## the tests that take longer
	OMP_NUM_THREADS=1 $(BIN)/python -P -m pytest -q -m slow

lint: $(STAMP)  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

speed: $(STAMP)  ## the harness against bare loops, as ratios; RATIOS=FILE.json keeps them (pytest-benchmark)
	OMP_NUM_THREADS=1 $(BIN)/python -P -m pytest -q benchmarks -o python_files="bench_*.py" -o python_functions="bench_*" \
		--benchmark-quiet $(if $(RATIOS),--ratios "$(RATIOS)")

setup: $(STAMP)  ## make or update .venv; every other target does it on demand

# Updated, never made anew: what else was installed into it, such as a plugin of yours, stays. One without pip, as an
# interrupted set-up leaves it, is completed.
$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "unlearnbench needs Python 3.11 to 3.13: install one, or name it: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV) || { \
		echo "could not make $(VENV): on Debian and Ubuntu, apt-get install python3-venv" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@
