# Each target sets up its own virtual environment, then does its job.
# PYTHON=python3.12 make test    uses another interpreter; remove .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# pip compiles Python files one after the other, on one core, for a quarter of the time that it takes.
INSTALL := $(BIN)/python -m pip install --quiet --no-compile --editable
COMPILE := $(BIN)/python -m compileall -q -j 0 $(VENV)/lib >/dev/null 2>&1 || true  # some packages hold files that fail

.PHONY: quickstart test test-slow test-peers docs benchmark benchmark-models arm gpu-wheels lint types clean

quickstart: $(VENV)/.train-export  ## train on real digits, export, validate, predict
	$(BIN)/convmixer quickstart

test: $(VENV)/.dev  ## the tests for every change: a few minutes
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow and not peer"

test-slow: $(VENV)/.dev  ## the others: whole trainings, exports and real models
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "slow and not peer"

test-peers: $(VENV)/.peers  ## the tests that compare with PyTorch, timm and JAX, which it installs
	$(BIN)/python -m pytest -n 2 --dist worksteal -m peer

docs: $(VENV)/.dev  ## the site of the documentation, into build/docs/site
	$(BIN)/python docs/build_site.py

benchmark: $(VENV)/.peers  ## time LiteRT files, plain and deployed, beside the peers: about half an hour
	$(BIN)/python benchmarks/litert.py

benchmark-models: $(VENV)/.peers $(VENV)-litert-torch/.ready  ## time ConvMixer beside other models: about half an hour
	$(BIN)/python benchmarks/other_models.py --litert-torch $(VENV)-litert-torch/bin/python

arm: $(VENV)/.peers  ## what runs arm64 programs here, on Debian on x86-64, into build/arm; then: benchmarks/arm.py
	$(BIN)/python benchmarks/on_arm/set_up.py

# For a machine with JAX, PyTorch and timm, and Python 3.12 on x86-64 Linux, whatever runs this; GPU_PYTHON=3.13 for
# another. NumPy comes with JAX.
GPU_PYTHON ?= 3.12
GPU_WHEELS := keras>=3.14 absl-py h5py markdown-it-py mdurl ml-dtypes namex optree packaging pygments rich typing-extensions

gpu-wheels:  ## Keras and what it asks for, as wheels to carry to a machine with a GPU and no network
	rm -rf gpu-wheels gpu-wheels.unfinished
	$(PYTHON) -m pip download --quiet --no-deps --only-binary=:all: --implementation cp --python-version $(GPU_PYTHON) \
		$(foreach glibc,28 27 17,--platform manylinux_2_$(glibc)_x86_64) --platform manylinux2014_x86_64 \
		--dest gpu-wheels.unfinished $(foreach wheel,$(GPU_WHEELS),"$(wheel)")
	mv gpu-wheels.unfinished gpu-wheels

lint: types  ## style and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(VENV)/.dev  ## what a type checker says of the packages, and of every public call
	$(BIN)/basedpyright --pythonpath $(BIN)/python

# An environment of its own: litert-torch asks for older packages than ours.
$(VENV)-litert-torch/.ready: setup.cfg
	@echo "Setting up $(VENV)-litert-torch, a few minutes ..."
	$(PYTHON) -m venv $(VENV)-litert-torch
	$(VENV)-litert-torch/bin/python -m pip install --quiet litert-torch==0.10.0 timm==1.0.31 torch==2.13.0 torchvision==0.28.0
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-litert-torch gpu-wheels build dist *.egg-info

$(VENV)/.train-export: setup.cfg pyproject.toml
	@echo "Setting up $(VENV), a minute or two ..."
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) ".[train,export]"
	$(COMPILE)
	touch $@

$(VENV)/.dev: setup.cfg pyproject.toml
	@echo "Setting up $(VENV), a minute or two ..."
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) ".[dev]"
	$(COMPILE)
	touch $@ $(VENV)/.train-export

$(VENV)/.peers: $(VENV)/.dev
	@echo "Installing PyTorch, timm, JAX, ONNX Runtime and OpenVINO into $(VENV) ..."
	$(INSTALL) ".[dev,peers]"
	$(COMPILE)
	touch $@
