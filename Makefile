# The newcomer's commands. What depends on what is Snakemake's business, not make's.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RESULTS ?= results/synthrooms

.PHONY: help env demo status test test-cluster check clean

help:
	@echo "make demo    set everything up and run the embedded data set, in minutes"
	@echo "make test    set everything up and run all tests"
	@echo "make check   linters and formatters"
	@echo "make status  which scenes and stages are done, at work, or have failed"
	@echo "make env     the environment alone, in $(VENV)"
	@echo "make test-cluster   tests on a Slurm that is started here for it (root, Debian)"
	@echo "make clean   remove the demo's results and data, nothing else"

env: $(VENV)/.complete

# Made anew when the requirements change; the mark is set only after all went well.
$(VENV)/.complete: requirements.txt constraints.txt $(wildcard envs/*)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "Python 3.11 or newer is needed: make PYTHON=python3.11 ..."; exit 1; }
	PYTHON=$(PYTHON) sh envs/system_libraries.sh
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	    -r requirements.txt -c constraints.txt
	@{ echo "#!$(CURDIR)/$(BIN)/python"; cat envs/snakemake_command.py; } > $(BIN)/snakemake
	@touch $@

demo: env
	PATH="$(CURDIR)/$(BIN):$$PATH" snakemake --cores
	PATH="$(CURDIR)/$(BIN):$$PATH" snakemake --report report.html
	@echo
	@cat results/synthrooms/tables/priors_val.md results/synthrooms/tables/val.md
	@echo
	@echo "Pictures and tables: report.html; meshes: results/synthrooms/fields/"

status:
	@python=$(BIN)/python; [ -x $$python ] || python=$(PYTHON); \
	    $$python -m stages.status --results $(RESULTS)

test: env
	OMP_NUM_THREADS=1 PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest -n auto

test-cluster: env
	apt-get -qq update
	DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends \
	    slurmctld slurmd slurm-client munge
	GNESF_CLUSTER=1 OMP_NUM_THREADS=1 PATH="$(CURDIR)/$(BIN):$$PATH" \
	    $(BIN)/python -m pytest tests/cluster

check: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/snakemake --lint

clean:
	rm -rf results/synthrooms resources/synthrooms report.html
