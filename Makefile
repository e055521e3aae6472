# `make demo` and `make test` are all a newcomer needs: each sets .venv up when that is due.

PYTHON ?= python3
ARGS ?=
TORCH ?= 2.14.1
OLD ?= benchmarks/results/cpu-steps.json benchmarks/results/cpu.json
RESULTS := build/bench/results.json
BIN := .venv/bin
BOTH_CORES := -n 2 --dist worksteal

.PHONY: install demo test test-all faults lint types bench bench-compare gpu nullgpu clean

install: .venv/installed
	@$(BIN)/python -c "from vae_fast.kernels import extension; print(extension.status())"

# torch comes first, because the C++ operators are compiled against the torch that they will run with.
.venv/installed: pyproject.toml constraints.txt setup.py CMakeLists.txt $(shell find kernels/csrc -type f)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -c constraints.txt torch setuptools cmake ninja
	$(BIN)/python -m pip install -c constraints.txt --no-build-isolation -e '.[test]'
	touch $@

demo: .venv/installed
	$(BIN)/python -m vae_fast.train --amp --compile $(ARGS)

# One thread for each of both workers, whose threads would wait for each other: 6 minutes instead of 10. Tests in which
# the number matters set it themselves; test-all runs with PyTorch's.
test: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(BOTH_CORES) $(ARGS)

test-all: .venv/installed
	$(BIN)/python -m pytest $(BOTH_CORES) -m "sweep or not sweep" $(ARGS)

# Real faults, in minutes: killed runs, full disks (as root), failing calls, damaged files.
faults: .venv/installed
	mkdir -p build
	$(BIN)/python -m tests.faults --json build/faults.json --markdown build/faults.md $(ARGS)

lint: types
	$(BIN)/ruff check
	$(BIN)/ruff format --check

# mypy follows no editable install, and finds vae_fast.kernels only where that folder lies inside vae_fast/. So it is
# shown a tree of links. The tests are left out: they pass wrong types on purpose.
types: .venv/installed
	rm -rf build/types && mkdir -p build/types/vae_fast
	ln -s $(CURDIR)/vae_fast/* $(CURDIR)/kernels build/types/vae_fast
	ln -s $(CURDIR)/benchmarks build/types
	cd build/types && $(CURDIR)/$(BIN)/mypy --config-file $(CURDIR)/pyproject.toml \
		--cache-dir $(CURDIR)/.mypy_cache -p vae_fast -p benchmarks

# On a CPU under eight minutes: rounds for which there is no time are given up. ARGS=--long adds time_to_elbo, and the
# peers where they are installed, and takes as long as it takes: benchmarks/README.md.
bench: .venv/installed
	mkdir -p build/bench
	$(BIN)/python -m pytest benchmarks --benchmark-only --benchmark-quiet --benchmark-json $(RESULTS) $(ARGS)
	$(BIN)/python -m benchmarks.report $(RESULTS) --out build/bench/charts

# Fails where a median ratio to the eager baseline of the same run has dropped by more than a tenth, twice in a row.
bench-compare: bench
	$(BIN)/python -m benchmarks.compare --again $(OLD) $(RESULTS)

# With a PYTHON of one's own no .venv is made: the C++ operators are built in place with that Python's torch, nothing is
# installed, and what it lacks is taken from the wheels in WHEELS.
ifeq ($(origin PYTHON),file)
gpu: .venv/installed
	$(BIN)/python -m benchmarks.gpu $(ARGS)
else
gpu:
	$(PYTHON) -m benchmarks.gpu --build $(if $(WHEELS),--wheels $(WHEELS)) $(ARGS)
endif

# What a GPU is given to do, on one that is not there. ARGS names another command: "python -m benchmarks.graph_nodes".
nullgpu:
	$(PYTHON) -m benchmarks.nullgpu --torch $(TORCH) $(ARGS)

# Keeps .venv and runs/.
clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	rm -f kernels/_C.so kernels/_C_missing.txt .venv/installed
	find vae_fast kernels tests benchmarks -name __pycache__ -prune -exec rm -rf {} +
