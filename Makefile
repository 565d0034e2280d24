# make demo   train, sample and judge the digits model (about 3 minutes on 2 cores, installation aside)
# make test   all tests but the slow ones; ALL=1 those too: what takes longest, meshes, pairs of
#             processes
# make test-all   the same as make test ALL=1
# make test-browser  the tests of the report's page, in headless Chromium
# make lint   ruff, then pyright on langevin_jax/ (20 s)
# make docs   the documentation site, build/docs/index.html (3 minutes; half a minute
#             where neither the library nor the cells of a page have changed)
# make bench  speed against the bare network and PyTorch, checkpoints and starts, sweeps
#             against runs one after another, quality of digits and the 2-D mixture, whether networks
#             for vectors begin to learn, solvers against other libraries', inpainting against its
#             baselines, conditional models (over an hour)
# make plan   memory, speed and largest batch of the two DiT-XL/2 configs on 256 v5e chips, without
#             one (some minutes); CONFIGS=my.py TOPOLOGY=v5e:4x4,v5p:8x8x8 plan something else
# make paper  the paper reproduced, runs/paper/report.html and explorer.html (12 minutes;
#             PAPER=--fast 3); PAPER="--density=mine.json --workdir=runs/mine" for your own
# make lock   pin again what is installed now
#
# PYTHON=python3.12 chooses another Python (3.11 or newer), in an environment of its own.

PYTHON ?= python3
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
ifeq ($(VERSION),)
  $(error $(PYTHON) does not run; name a Python 3.11 or newer: make PYTHON=python3.12)
endif
ifneq ($(shell $(PYTHON) -c 'import sys; print(sys.version_info >= (3, 11))'),True)
  $(error langevin_jax needs Python 3.11 or newer, $(PYTHON) is $(VERSION): make PYTHON=python3.12)
endif

VENV := $(if $(filter file,$(origin PYTHON)),.venv,.venv-$(VERSION))
LOCK := $(wildcard locks/python$(VERSION).txt)
RUN := $(VENV)/bin/python
READY := $(VENV)/ready-$(VERSION)
INSTALL := $(RUN) -m pip install --quiet --disable-pip-version-check $(if $(LOCK),-c $(LOCK))

.PHONY: demo test test-all test-browser lint docs bench plan paper lock

demo: $(READY)
	$(RUN) -m experiments.train --config=experiments/configs/digits.py --workdir=runs/digits
	$(RUN) -m experiments.sample --workdir=runs/digits
	$(RUN) -m experiments.evaluate --workdir=runs/digits

test: $(READY)
	OPENBLAS_NUM_THREADS=1 $(RUN) -m pytest -n 2 --dist worksteal $(if $(ALL),-m "slow or not slow")

test-all:
	$(MAKE) test ALL=1

# Chromium is the system's own: Debian's, installed only by root and only where there is none.
test-browser: $(READY)
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; \
	  then apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core; \
	  else echo "test-browser needs chromium: sudo apt-get install chromium"; exit 1; fi
	$(INSTALL) -e ".[test,browser]"
	BROWSER_REQUIRED=1 OPENBLAS_NUM_THREADS=1 $(RUN) -m pytest tests/browser

lint: $(READY)
	$(RUN) -m ruff check .
	$(RUN) -m pyright --pythonpath $(RUN)

docs: $(READY)
	$(INSTALL) -e ".[docs]"
	OPENBLAS_NUM_THREADS=1 $(RUN) -m sphinx -W --keep-going -q -j 2 -d build/doctrees docs build/docs
	@echo "build/docs/index.html"

bench: $(READY)
	$(INSTALL) -e ".[bench]"
	$(INSTALL) --no-deps k-diffusion azula einops
	$(RUN) -m experiments.benchmarks.speed --out=runs/bench/speed.json
	$(RUN) -m experiments.benchmarks.imported --out=runs/bench/imported.json
	$(RUN) -m experiments.benchmarks.scale --out=runs/bench/scale.json
	$(RUN) -m experiments.benchmarks.sweeps --out=runs/bench/sweeps.json
	$(RUN) -m experiments.benchmarks.quality --out=runs/bench/quality.json
	$(RUN) -m experiments.benchmarks.learning --out=runs/bench/learning.json
	$(RUN) -m experiments.benchmarks.solvers --out=runs/bench/solvers --workdir=runs/bench/digits-0
	$(RUN) -m experiments.benchmarks.inpainting --workdir=runs/bench/digits-0
	$(RUN) -m experiments.benchmarks.conditions --out=runs/bench/conditions.json

# libtpu in an environment of its own: where it is installed, jax looks for TPUs.
TPU := .venv-tpu$(VENV:.venv%=%)
CONFIGS ?= experiments/configs/imagenet64_dit_xl2.py experiments/configs/latent_dit_xl2.py
TOPOLOGY ?= v5e:16x16

plan: $(TPU)/ready
	set -e; for config in $(CONFIGS); do \
	  $(TPU)/bin/python -m experiments.plan --config=$$config --topology=$(TOPOLOGY) \
	    --out=runs/plan/$$(basename $$config .py).json; \
	done

$(TPU)/ready: pyproject.toml $(LOCK)
	$(PYTHON) -m venv --clear $(TPU)
	@echo "installing into $(TPU), once"
	$(TPU)/bin/python -m pip install --quiet --disable-pip-version-check $(if $(LOCK),-c $(LOCK)) \
	  -e ".[experiments,tpu]"
	touch $@

paper: $(READY)
	$(INSTALL) -e ".[paper]"
	$(RUN) -m experiments.paper --out=runs/paper $(PAPER)

lock: $(READY)
	$(RUN) -m pip freeze --exclude-editable --exclude torch > locks/python$(VERSION).txt

$(READY): pyproject.toml $(LOCK)
	@$(RUN) -c 'import sys; assert "%d.%d" % sys.version_info[:2] == "$(VERSION)"' 2>/dev/null \
	  || $(PYTHON) -m venv --clear $(VENV)
	@echo "installing into $(VENV), once"
	$(INSTALL) -e ".[test]"
	touch $@
