# Set-up and the targets a newcomer types. Everything else is Snakemake's: see the README.

PROFILE ?= demo
CONFIG := config/$(PROFILE).yaml
VENV := .venv
PEERS := .benchmarks-venv
BIN := $(VENV)/bin
SNAKEMAKE := $(BIN)/snakemake --configfile $(CONFIG)
# One thread a process unless the workflow says otherwise: two jobs on two cores must not fight.
export OMP_NUM_THREADS ?= 1
export MKL_NUM_THREADS ?= 1

# Before packages are installed for nothing: the workflow refuses such a folder.
ifneq ($(findstring {,$(CURDIR))$(findstring },$(CURDIR)),)
$(error The folder $(CURDIR) has a brace in its path, which Snakemake cannot handle: rename or move it)
endif

.PHONY: reproduce figures test test-all lint promote check-gpu benchmarks clean-environment

# Everything from scratch, then this machine's numbers beside the published ones.
reproduce: $(VENV)/ready
	$(BIN)/python -m hessian_directions.announcement $(CONFIG)
	$(SNAKEMAKE) --config source=compute --quiet rules -- reproduce
	$(SNAKEMAKE) --config source=compute --quiet all --report results/computed/$(PROFILE)/report.html -- reproduce
	@cat results/computed/$(PROFILE)/comparison.txt
	@! grep -q "did NOT reproduce" results/computed/$(PROFILE)/comparison.txt

# Every figure, table, claim, the paper and the report from the archive: no training, no curvature job.
figures: $(VENV)/ready
	$(SNAKEMAKE) --quiet rules --report results/redrawn/$(PROFILE)/report.html --report-after-run -- figures

# The workflow's tests share one computed clone and use both cores themselves.
test: $(VENV)/ready
	$(BIN)/python -m pytest -q -n 2 -m "not workflow and not long"
	$(BIN)/python -m pytest -q -m "workflow and not long"

test-all: $(VENV)/ready
	$(BIN)/python -m pytest -q -n 2 -m "not workflow"
	$(BIN)/python -m pytest -q -m workflow

lint: $(VENV)/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile workflow
	$(SNAKEMAKE) --config source=compute --lint

# Computed artifacts become the archive.
promote: $(VENV)/ready
	$(BIN)/python -m hessian_directions.promotion $(PROFILE)

# Two minutes on a machine with a GPU: the same numbers there as on the CPU?
check-gpu: $(VENV)/ready
	$(BIN)/python -m pytest -q tests/test_gpu.py --require-gpu

# Side by side with other tools, installed in an environment of their own: see benchmarks/README.md.
benchmarks: $(PEERS)/ready
	$(PEERS)/bin/python benchmarks/run.py

$(PEERS)/ready: pyproject.toml constraints.txt benchmarks/requirements.txt
	python3 -m venv $(PEERS)
	$(PEERS)/bin/pip install --quiet --disable-pip-version-check -r benchmarks/requirements.txt
	touch $@

$(VENV)/ready: pyproject.toml constraints.txt requirements.txt
	python3 -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@
