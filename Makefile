# `make demo` and `make test` work on a fresh machine: they create .venv,
# install everything pinned in requirements/, and run.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
MMCV := $(shell grep -o 'onedl-mmcv==.*' requirements/onedl.txt)
PIP_INSTALL := $(BIN)/python -m pip install --no-build-isolation

.PHONY: install demo test clean

install: $(VENV)/.installed

# One page of prebuilt mmcv wheels (with CUDA ops) for each torch/CUDA pair.
# $(VENV)/.installed is touched last, so an interrupted install starts again.
$(VENV)/.installed: requirements/build.txt requirements/onedl.txt requirements/tests.txt requirements/export.txt setup.py
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 10) <= v <= (3, 12) else f"Python 3.10 to 3.12 is needed, this is {sys.version.split()[0]}: try make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -r requirements/build.txt
	pair=$$($(BIN)/python -c 'import torch; c = torch.version.cuda; print(("cu" + c.replace(".", "") if c else "cpu") + "-torch" + torch.__version__.split("+")[0].replace(".", ""))'); \
	$(PIP_INSTALL) --only-binary onedl-mmcv --retries 1 --timeout 20 \
	    --find-links https://mmwheels.onedl.ai/$$pair/simple/onedl-mmcv/index.html $(MMCV) || { \
	  echo "No prebuilt wheel of $(MMCV) fits $$pair: compiling it, about 30 minutes of CPU time."; \
	  echo "Without nvcc the result has CPU ops only."; \
	  $(PIP_INSTALL) $(MMCV); }
	$(BIN)/python -c 'import torch, mmcv._ext' || { \
	  echo "This $(MMCV), of pip's cache maybe, is for another torch: compiling it."; \
	  $(PIP_INSTALL) --no-cache-dir --force-reinstall --no-deps --no-binary onedl-mmcv $(MMCV); }
	$(PIP_INSTALL) -r requirements/onedl.txt -r requirements/tests.txt
	$(PIP_INSTALL) --no-deps -e .
	touch $@

# A small detector with an RA backbone on drawn shapes: data, training,
# evaluation and pictures.
DEMO := configs/demo/faster_rcnn_ra_r18.py
demo: install
	$(BIN)/python -m ra_mm.datasets.shapes data/shapes
	$(BIN)/python tools/train.py $(DEMO) --work-dir work_dirs/demo
	$(BIN)/python tools/test.py $(DEMO) "$$(cat work_dirs/demo/last_checkpoint)" \
	    --work-dir work_dirs/demo/test --show-dir $(CURDIR)/work_dirs/demo/pictures
	@echo "Truth beside detections, a picture each: $(CURDIR)/work_dirs/demo/pictures"

test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/unit tests/integration tests/faults -n 2 --dist loadfile

clean:
	rm -rf $(VENV) build *.egg-info
