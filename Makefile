# Set-up and the targets a newcomer types. Everything else is Snakemake's: see the README.

PROFILE ?= demo
CONFIG ?= config/$(PROFILE).yaml
# Shells leave ~ as it is within a word.
override CONFIG := $(patsubst ~/%,$(HOME)/%,$(CONFIG))
VENV := .venv
PEERS := .benchmarks-venv
BIN := $(VENV)/bin
# As many jobs at once as there are GPUs, where jobs use one; each claims its own.
GPUS ?= $(or $(patsubst 0,,$(words $(wildcard /dev/nvidia[0-9]*))),1)
SNAKEMAKE = $(BIN)/snakemake --configfile "$(CONFIG)" --resources gpu=$(GPUS)
# One thread a process unless the workflow says otherwise: two jobs on two cores must not fight.
export OMP_NUM_THREADS ?= 1
export MKL_NUM_THREADS ?= 1

# Before packages are installed for nothing: the workflow refuses such a folder.
ifneq ($(findstring {,$(CURDIR))$(findstring },$(CURDIR)),)
$(error The folder $(CURDIR) has a brace in its path, which Snakemake cannot handle: rename or move it)
endif

# What makes a machine that has AVX-512 compute as one without it.
AVX2 := ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 MKL_ENABLE_INSTRUCTIONS=AVX2
HAS_AVX512 := $(shell grep -c -m 1 -w avx512f /proc/cpuinfo 2>/dev/null)
CHECKS := $(firstword $(wildcard /lib/*/libc_malloc_debug.so.0 /lib64/libc_malloc_debug.so.0))
# Tests of what depends on instructions: derivatives, proofs by rounding, Krylov spaces, training. What is
# refused, copied, wrapped or chosen is decided by Python alone, and random numbers are the same everywhere.
ROUNDED := any_network gauss_newton gradients in_place layers layouts means objective precision
NUMERICAL := $(addprefix tests/,autodiff $(ROUNDED:%=objectives/test_%.py) spectral learning/test_training.py \
	$(addprefix traces/test_,deflation.py finite_differences.py kinks.py))

# Of replicates: the archive's own is that of the configuration.
SEEDS ?= 2 3 4 5 6

.PHONY: report progress reproduce recompute replicates figures config test test-all test-avx2 lint promote promote-drawings promote-replicates deposit check-gpu gpu-day benchmarks clean-environment

# Everything from scratch, then this machine's numbers beside the published ones.
reproduce: $(VENV)/ready
	$(BIN)/python -m hessian_directions.reproduction.announcement "$(CONFIG)"
	$(SNAKEMAKE) --config source=compute --quiet rules -- reproduce
	$(SNAKEMAKE) --config source=compute --quiet all --report results/computed/$(PROFILE)/provenance.html -- reproduce
	@cat results/computed/$(PROFILE)/comparison.txt
	@! grep -q "did NOT" results/computed/$(PROFILE)/comparison.txt

# Every analysis of the archive's own weights, no training: the same numbers but for rounding?
recompute: $(VENV)/ready
	$(SNAKEMAKE) --config source=recompute --quiet rules -- recompute
	@cat results/recomputed/$(PROFILE)/comparison.txt
	@! grep -q "did NOT" results/recomputed/$(PROFILE)/comparison.txt

# The profile with other seeds, from which `make reproduce` knows how much another training may differ.
replicates: $(VENV)/ready
	for seed in $(SEEDS); do \
		$(SNAKEMAKE) --config source=replicate seed=$$seed --quiet rules -- replicate || exit 1; \
	done

# The report about the networks of a configuration, your own for instance: make report CONFIG=path/to/mine.yaml
report: $(VENV)/ready
	$(BIN)/python -m hessian_directions.reproduction.announcement "$(CONFIG)"
	$(SNAKEMAKE) --quiet rules progress -- page

# How far a run is that computes: what is done, what runs, how long it will still take.
progress: $(VENV)/ready
	@$(BIN)/python -m hessian_directions.reproduction.status "$(CONFIG)"

# Every key of a configuration with its default, unit and meaning.
config: $(VENV)/ready
	@$(BIN)/python -m hessian_directions.reproduction.reference

# Every figure, table, claim, the paper and the report from the archive: no training, no curvature job.
figures: $(VENV)/ready
	$(SNAKEMAKE) --config source=archive --quiet rules --report results/redrawn/$(PROFILE)/provenance.html --report-after-run -- figures

# The workflow's tests share one computed clone, those of a file what else they need; each uses both cores for a part of
# its time only.
PYTEST = $(BIN)/python -m pytest -q -n 2 --durations 12

test: $(VENV)/ready
	$(PYTEST) -m "not workflow and not long"
	$(PYTEST) --dist loadfile -m "workflow and not long"

test-all: $(VENV)/ready
	$(PYTEST) -m "not workflow"
	$(PYTEST) --dist loadfile -m workflow
	$(MAKE) test-avx2

# Most laptops have no AVX-512. Their kernels are other ones and differ in their mistakes: a machine that has it
# computes as they do, with glibc's checks of the heap where it has them, which show a fault only in one thread.
test-avx2: $(VENV)/ready
ifeq ($(HAS_AVX512),1)
	$(AVX2) $(if $(CHECKS),LD_PRELOAD=$(CHECKS) MALLOC_CHECK_=3 MALLOC_PERTURB_=85) OMP_NUM_THREADS=1 \
		$(PYTEST) -m "not long" $(NUMERICAL)
else
	@echo "This machine has no AVX-512 to leave out: its other tests are those of such a machine."
endif

lint: $(VENV)/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile workflow
	$(SNAKEMAKE) --config source=compute --lint

# Computed artifacts become the archive.
promote: $(VENV)/ready
	$(BIN)/python -m hessian_directions.reproduction.promotion $(PROFILE)

# Figures, tables, verdicts and the paper drawn anew from the archive become the archive's.
promote-drawings: $(VENV)/ready
	$(BIN)/python -m hessian_directions.reproduction.promotion --drawings $(PROFILE)

# Replicates become the archive's; all else stays.
promote-replicates: $(VENV)/ready
	$(BIN)/python -m hessian_directions.reproduction.promotion --replicates $(PROFILE)

# The last commit with checksums of all its files, as research-data repositories such as Zenodo take it.
deposit: $(VENV)/ready
	$(BIN)/python -m hessian_directions.reproduction.deposit

# Two minutes on a machine with a GPU: the same numbers there as on the CPU?
check-gpu: $(VENV)/ready
	$(BIN)/python -m pytest -q tests/test_gpu.py --require-gpu

# What only a GPU can tell, in order of value, for ten hours or until nothing is left; start it again to go on.
gpu-day: $(VENV)/ready $(PEERS)/ready
	$(BIN)/python benchmarks/gpu_day.py

# Side by side with other tools, installed in an environment of their own; where there is AVX-512, also without it:
# see benchmarks/README.md.
benchmarks: $(PEERS)/ready
	$(PEERS)/bin/python benchmarks/run.py
ifeq ($(HAS_AVX512),1)
	$(AVX2) $(PEERS)/bin/python benchmarks/run.py
endif

$(PEERS)/ready: pyproject.toml constraints.txt benchmarks/requirements.txt
	python3 -m venv $(PEERS)
	$(PEERS)/bin/pip install --quiet --disable-pip-version-check -r benchmarks/requirements.txt
	touch $@

$(VENV)/ready: pyproject.toml constraints.txt requirements.txt
	python3 -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@
