# `make demo` and `make test` work on a fresh machine: they create a virtual environment,
# install the pinned packages into it, and run.
#
# STACK=onedl        the maintained fork of the OpenMMLab packages (requirements/onedl.txt)
# STACK=openmmlab    the original packages (requirements/openmmlab.txt), Python 3.10 or 3.11
# OPS=torchvision    torchvision's operators take the place of mmcv's; nothing is compiled
# OPS=compiled       mmcv's own operators: a wheel if there is one, else half an hour
STACK ?= onedl
OPS ?= torchvision
PYTHON ?= python3
VENV ?= $(if $(filter openmmlab,$(STACK)),.venv-openmmlab,.venv)

ifeq ($(filter onedl openmmlab,$(STACK)),)
$(error STACK=$(STACK): onedl or openmmlab is needed)
endif
ifeq ($(filter torchvision compiled,$(OPS)),)
$(error OPS=$(OPS): torchvision or compiled is needed)
endif

BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed-$(STACK)-$(OPS)
# Empty if the environment is missing or broken: interrupted, made without ensurepip, or
# left behind by a Python that has been removed. It is then made anew.
WORKING := $(shell $(BIN)/python -m pip --version 2>/dev/null)

.PHONY: install demo test lint clean broken-venv

install: $(INSTALLED)

# The file is touched last, so an interrupted installation is resumed. mmcv's pin is left
# to mmcv.sh, and torch comes first because the setup.py of other packages imports it.
$(INSTALLED): requirements/build.txt requirements/$(STACK).txt requirements/mmcv.sh pyproject.toml setup.py $(wildcard ra_mm/mmcv_ops/operators/*.py) $(if $(WORKING),,broken-venv)
	@$(if $(WORKING),,$(PYTHON) -c "$$CHECK" $(STACK))
	$(if $(WORKING),,$(PYTHON) -m venv $(if $(wildcard $(VENV)/pyvenv.cfg),--clear) $(VENV))
	@$(BIN)/python -c "$$CHECK" $(STACK)
	$(BIN)/python -m pip install -r requirements/build.txt -c requirements/$(STACK).txt torch torchvision
	@sh requirements/mmcv.sh $(BIN)/python $(STACK) $(OPS)
	grep -vE '^(onedl-)?mmcv' requirements/$(STACK).txt >$(VENV)/requirements.txt
	$(BIN)/python -m pip install --no-build-isolation -r $(VENV)/requirements.txt -e '.[lint,tests]'
	@ls $(VENV)/lib/python3*/site-packages/mmcv/_ext*.so >/dev/null 2>&1 || $(BIN)/python -m ra_mm.mmcv_ops install
	@touch $@

# A small detector with an RA backbone on drawn shapes: data, training, evaluation and
# pictures.
DEMO := configs/demo/faster_rcnn_ra_r18.py
demo: install
	$(BIN)/python -m ra_mm.datasets.shapes data/shapes
	$(BIN)/python tools/train.py $(DEMO) --work-dir work_dirs/demo
	$(BIN)/python tools/test.py $(DEMO) "$$(cat work_dirs/demo/last_checkpoint)" \
	    --work-dir work_dirs/demo/test --show-dir $(CURDIR)/work_dirs/demo/pictures
	@echo "Ground truth beside detections, one picture per image: $(CURDIR)/work_dirs/demo/pictures"

# All tests that need no GPU. worksteal gives each of the two workers one half and lets
# an idle worker take over tests of the other.
test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/unit tests/integration tests/faults -n 2 --dist worksteal

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build *.egg-info

# Runs before anything is installed: the Python, and that the environment does not hold
# the other set of packages, which has the same import names.
define CHECK
import sys
from importlib import metadata
stack = sys.argv[1]
last = 13 if stack == 'onedl' else 11
if not (3, 10) <= sys.version_info[:2] <= (3, last):
    sys.exit(
        f'{sys.executable} is Python {sys.version.split()[0]}, but STACK={stack} needs 3.10 '
        f'to 3.{last}: try `make clean`, then `make PYTHON=python3.11`, both with your '
        'other options'
    )
onedl = 'onedl-mmengine onedl-mmcv onedl-mmdetection onedl-mmsegmentation onedl-mmpretrain'
openmmlab = 'mmengine mmengine-lite mmcv mmcv-lite mmcv-full mmdet mmsegmentation mmpretrain'
others = (openmmlab if stack == 'onedl' else onedl).split()
names = [dist.metadata['Name'] or '' for dist in metadata.distributions()]
found = {name.lower().replace('_', '-') for name in names}.intersection(others)
# Packages of the Python that the environment is made with do not matter.
if found and sys.prefix != sys.base_prefix:
    sys.exit(
        f'{sys.prefix} holds {", ".join(sorted(found))}, whose files those of STACK={stack} would '
        'overwrite; nothing was installed. Remove them, run `make clean`, or choose another '
        f'environment: `make STACK={stack} VENV=.venv-{stack}`'
    )
endef
export CHECK
