# Two commands do all the set-up: `make demo` and `make test`. Both build .venv once and reuse it.
#
# On Linux without a GPU the default package index serves a CUDA build of torch of several GB. `make demo TORCH_INDEX=URL`
# takes torch from the index that pytorch.org names for CPU builds instead.

PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?=
JOBS ?= auto

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
INPUTS := pyproject.toml constraints.txt setup.py src/icsbound/_version.py $(wildcard src/native/*)
# One thread a process, threads that sleep while they wait, and no processes to compile in: tests run side by side.
QUIET := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE TORCHINDUCTOR_COMPILE_THREADS=1
# One process a core; one that has finished its tests takes some of another's.
SIDE_BY_SIDE := -n $(JOBS) --dist worksteal

.PHONY: demo test test-page test-triton test-zoo test-full zoo lint bench-layer bench-layer-gpu bench-emd bench-train bench-monitor calibrate docs wheel clean

demo: $(VENV)/demo.stamp
	$(BIN)/icsbound compare --out runs/demo --force

test: $(VENV)/test.stamp
	$(QUIET) $(BIN)/python -m pytest $(SIDE_BY_SIDE) -m "not full and not page and not zoo"
	$(MAKE) lint

lint: $(VENV)/test.stamp
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# The page in a real browser: needs Chromium (Debian and Ubuntu: apt install chromium). What it saw lies in
# runs/screenshots afterwards, to be looked at and kept.
test-page: $(VENV)/test.stamp
	$(QUIET) $(BIN)/python -m pytest $(SIDE_BY_SIDE) -m page tests/page

# The kernels for CUDA: on a GPU where there is one, else in Triton's interpreter, and compiled for an H100 either way.
# Apart from `make test` because Triton is 690 MB and is built for Linux alone. FULL=1: every setting, for many minutes.
test-triton: $(VENV)/triton.stamp
	$(QUIET) TRITON_INTERPRET=$$($(BIN)/python -c 'import torch; print(int(not torch.cuda.is_available()))') \
		$(BIN)/python -m pytest $(SIDE_BY_SIDE) $(if $(FULL),,-m "not full") \
		tests/norm/kernels/test_ptx.py tests/norm/kernels/test_triton.py

# Networks of torchvision and timm, converted, or built of the layer. Apart from `make test` because these libraries are
# here for that alone.
test-zoo: $(VENV)/zoo.stamp
	$(QUIET) PYTHONPATH=$(abspath $(VENV)/zoo) $(BIN)/python -m pytest $(SIDE_BY_SIDE) -m zoo \
		tests/benchmarks/test_zoo.py tests/norm/test_norm_layer.py tests/training/test_foreign.py tests/training/test_resnet.py

# Longer evidence, and what needs a library of its own.
test-full: $(VENV)/full.stamp
	$(QUIET) $(BIN)/python -m pytest $(SIDE_BY_SIDE) -m "not page and not zoo"

# The documentation as a site in build/site, a warning being an error. The gallery's pages are the examples, run for it.
docs: $(VENV)/docs.stamp
	$(QUIET) $(BIN)/python tools/gallery.py
	$(BIN)/zensical build --strict

# Wheel and source distribution in dist/, each installed and tried in an environment of its own, the latter also where
# there is no compiler.
wheel: $(VENV)/wheel.stamp
	rm -rf dist
	$(BIN)/python -m build --quiet --outdir dist
	$(BIN)/python tools/try_wheel.py dist

# Speed, as ratios measured side by side. Nothing else may run on the cores meanwhile. DATA_DIR: parquet files of CIFAR-10.
bench-layer: $(VENV)/test.stamp
	mkdir -p runs
	$(BIN)/python benchmarks/layer.py --dtypes float32 bfloat16 --others --compile --json runs/bench-layer.json
	$(BIN)/python benchmarks/network.py --compile --json runs/bench-network.json

# On an NVIDIA GPU.
bench-layer-gpu: $(VENV)/triton.stamp
	mkdir -p runs
	$(BIN)/python benchmarks/layer_gpu.py --json runs/bench-layer-gpu.json

bench-emd: $(VENV)/bench.stamp
	mkdir -p runs
	$(BIN)/python benchmarks/emd.py $(if $(DATA_DIR),--data-dir $(DATA_DIR)) --out runs/bench-emd.json

bench-train: $(VENV)/test.stamp
	$(BIN)/python benchmarks/train.py --threads $(or $(THREADS),1) $(if $(DATA_DIR),--data cifar10 --data-dir $(DATA_DIR) --model resnet20)

# What a monitor with the default schedule takes of the training, with and without it in turn.
bench-monitor: $(VENV)/test.stamp
	mkdir -p runs
	$(BIN)/python benchmarks/monitor.py --json runs/bench-monitor.json

# What verdicts, bounds and intervals promise, by simulation where the truth is known; fails where a promise is broken.
calibrate: $(VENV)/test.stamp
	mkdir -p runs
	$(BIN)/python benchmarks/inference.py --digits --json runs/calibrate.json

# Every batch-norm network of both libraries: some hours. It goes on from the lines that are kept, and adds to them.
zoo: $(VENV)/zoo.stamp
	PYTHONPATH=$(abspath $(VENV)/zoo) $(BIN)/python benchmarks/zoo.py --out benchmarks/zoo.jsonl

$(VENV)/torch.stamp: constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	touch $@

# The package is built here alone: compiling its native library takes a minute of both cores. What an extra names is then
# installed beside it.
$(VENV)/package.stamp: $(VENV)/torch.stamp $(INPUTS)
	$(PIP) --editable .
	touch $@

$(VENV)/demo.stamp: $(VENV)/package.stamp
	$(PIP) 'icsbound[demo]'
	touch $@

$(VENV)/test.stamp: $(VENV)/package.stamp
	$(PIP) 'icsbound[test]'
	touch $@

$(VENV)/full.stamp: $(VENV)/test.stamp
	$(PIP) 'icsbound[examples,ray]'
	touch $@

# With what the gallery's examples need.
$(VENV)/docs.stamp: $(VENV)/test.stamp
	$(PIP) 'icsbound[examples,docs]'
	touch $@

$(VENV)/triton.stamp: $(VENV)/test.stamp
	$(PIP) 'icsbound[triton]'
	touch $@

# Without dependencies: torchvision asks for a torch of its own index, and all else that both need is there. In a folder
# of their own: without a build of torchvision for CPUs, libraries that look for it fail where it can be imported.
$(VENV)/zoo.stamp: $(VENV)/test.stamp
	$(PIP) --no-deps --upgrade --target $(VENV)/zoo torchvision timm
	touch $@

$(VENV)/wheel.stamp: $(VENV)/demo.stamp
	$(PIP) build
	touch $@

# The peers of the assignment solver.
$(VENV)/bench.stamp: $(VENV)/test.stamp
	$(PIP) laprust lapx
	touch $@

clean:
	rm -rf $(VENV) build dist runs src/*.egg-info src/icsbound/_kernels*.so
