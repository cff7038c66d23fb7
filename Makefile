# `make demo` and `make test` work on a fresh machine: they create .venv, install the
# pinned packages into it, and run.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
MMCV := $(shell grep -o '^onedl-mmcv==.*' requirements/onedl.txt)
PIP_INSTALL := $(BIN)/python -m pip install --no-build-isolation
# Empty if .venv is missing or broken: interrupted, made without ensurepip, or left
# behind by a Python that has been removed. It is then made anew.
WORKING := $(shell $(BIN)/python -m pip --version 2>/dev/null)

.PHONY: install demo test lint clean broken-venv

install: $(VENV)/.installed

# .installed is touched last, so an interrupted installation is resumed.
$(VENV)/.installed: requirements/build.txt requirements/onedl.txt pyproject.toml $(if $(WORKING),,broken-venv)
	$(if $(WORKING),,$(PYTHON) -c "$$CHECK_PYTHON" $(PYTHON))
	$(if $(WORKING),,$(PYTHON) -m venv $(if $(wildcard $(VENV)/pyvenv.cfg),--clear) $(VENV))
	$(BIN)/python -c "$$CHECK_PYTHON" $(BIN)/python
	$(BIN)/python -m pip install -r requirements/build.txt
	@sh -ec "$$INSTALL_MMCV"
	$(PIP_INSTALL) -r requirements/onedl.txt -e '.[lint,tests]'
	touch $@

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

define CHECK_PYTHON
import sys
version = sys.version.split()[0]
if not (3, 10) <= sys.version_info[:2] <= (3, 12):
    sys.exit(f'{sys.argv[1]} is Python {version}, but 3.10 to 3.12 is needed: try `make clean`, then `make PYTHON=python3.11`')
endef

# A prebuilt wheel of mmcv if there is one for this torch and CUDA, otherwise mmcv is
# compiled. mmwheels.onedl.ai has one page of wheels for each pair of torch and CUDA.
define INSTALL_MMCV
pair=$$($(BIN)/python -c 'import torch; c = torch.version.cuda; print(("cu" + c.replace(".", "") if c else "cpu") + "-torch" + torch.__version__.split("+")[0].replace(".", ""))')
announce() {
  echo "$$1: compiling it, about 30 minutes of CPU time."
  if ! command -v nvcc >/dev/null && [ ! -x "$${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" ]; then
    echo "There is no nvcc here, so this mmcv will have CPU operators only. To train on a GPU,"
    echo "press Ctrl-C and install the CUDA toolkit of your torch, or use a combination of Python,"
    echo "torch and CUDA that has a prebuilt wheel: requirements/build.txt lists them."
  fi
}
$(PIP_INSTALL) --only-binary onedl-mmcv --retries 1 --timeout 20 \
    --find-links https://mmwheels.onedl.ai/$$pair/simple/onedl-mmcv/index.html $(MMCV) || {
  announce "There is no prebuilt $(MMCV) for $$pair"
  $(PIP_INSTALL) $(MMCV)
}
$(BIN)/python -c 'import torch, mmcv._ext' || {
  announce "The installed $(MMCV), perhaps from pip's cache, was built for another torch"
  $(PIP_INSTALL) --no-cache-dir --force-reinstall --no-deps --no-binary onedl-mmcv $(MMCV)
}
endef
export CHECK_PYTHON INSTALL_MMCV
