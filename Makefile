# `make demo` and `make test` work on a fresh machine: they create a virtual environment,
# install the pinned packages into it, and run.
#
# STACK=onedl        the maintained fork of the OpenMMLab packages (requirements/onedl.txt)
# STACK=openmmlab    the original packages (requirements/openmmlab.txt), Python 3.10 or 3.11
# OPS=torchvision    torchvision's operators take the place of mmcv's; nothing is compiled
# OPS=compiled       mmcv's own operators: a wheel if there is one, else half an hour
# TORCH=cpu          PyTorch without CUDA, where its index can be reached
STACK ?= onedl
OPS ?= torchvision
PYTHON ?= python3
VENV ?= $(if $(filter openmmlab,$(STACK)),.venv-openmmlab,.venv)
TORCH ?=
export TORCH

ifeq ($(filter onedl openmmlab,$(STACK)),)
$(error STACK=$(STACK): onedl or openmmlab is needed)
endif
ifeq ($(filter torchvision compiled,$(OPS)),)
$(error OPS=$(OPS): torchvision or compiled is needed)
endif

BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed-$(STACK)-$(OPS)
# An environment that is broken, for example of a Python that was removed, is made anew.
ifeq ($(shell $(BIN)/python -m pip --version 2>/dev/null),)
.PHONY: $(INSTALLED)
endif

.PHONY: install demo test lint docs clean

install: $(INSTALLED)

# The file is touched last, so an interrupted installation is resumed.
$(INSTALLED): requirements/build.txt requirements/$(STACK).txt requirements/install.py pyproject.toml setup.py $(wildcard ra_mm/mmcv_ops/operators/*.py)
	$(PYTHON) requirements/install.py $(VENV) $(STACK) $(OPS)
	@touch $@

# A small detector with an RA backbone on drawn shapes: data, training, evaluation and
# pictures. Shapes don't overlap, so the pictures show one box for each, and no label covers
# another. AP gives credit for second guesses: it was 0.576 with them and 0.476 without.
DEMO := configs/demo/faster_rcnn_ra_r18.py
ONE_BOX := model.test_cfg.rcnn.nms.class_agnostic=True model.test_cfg.rcnn.nms.iou_threshold=0.3
demo: install
	$(BIN)/python -m ra_mm.datasets.shapes data/shapes
	$(BIN)/python tools/train.py $(DEMO) --work-dir work_dirs/demo \
	    --cfg-options randomness.seed=0
	$(BIN)/python tools/test.py $(DEMO) "$$(cat work_dirs/demo/last_checkpoint)" \
	    --work-dir work_dirs/demo/test --show-dir $(CURDIR)/work_dirs/demo/pictures \
	    --cfg-options $(ONE_BOX)
	@echo "This AP is for one box a shape; that of the training allows several."
	@echo "Ground truth beside detections, one picture per image: $(CURDIR)/work_dirs/demo/pictures"

# All tests that need no GPU. worksteal gives each of the two workers one half and lets
# an idle worker take over tests of the other.
test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/unit tests/integration tests/faults -n 2 --dist worksteal

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The site, in build/docs. A broken link or reference fails.
docs: install
	$(BIN)/python -m pip install --no-build-isolation -e '.[docs]'
	$(BIN)/python -m sphinx -W --keep-going -q -c docs . build/docs
	@echo "The front page: $(CURDIR)/build/docs/README.html"

clean:
	rm -rf $(VENV) build *.egg-info
