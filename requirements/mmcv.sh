#!/bin/sh
# Installs mmcv for `make`, after torch: mmcv.sh PYTHON STACK OPS
#
# OPS=torchvision installs mmcv without its operators, which takes seconds. OPS=compiled
# installs a wheel with operators if there is one for this Python, torch and CUDA, and
# compiles mmcv otherwise. Compiled operators that work are kept in both cases.
set -eu
python=$1 stack=$2 ops=$3

# works, fails (for example, with this torch) or none. The operators are loaded without
# mmcv, which needs packages that are installed later.
compiled_operators() {
  "$python" -c '
import importlib.util, pathlib
spec = importlib.util.find_spec("mmcv")
folders = list(spec.submodule_search_locations) if spec else []
found = [p for f in folders for p in pathlib.Path(f).glob("_ext*") if p.suffix in (".so", ".pyd")]
if not found:
    print("none")
else:
    try:
        import torch
        spec = importlib.util.spec_from_file_location("mmcv._ext", found[0])
        importlib.util.module_from_spec(spec)
        print("works")
    except Exception:
        print("fails")'
}

pip_install() {
  "$python" -m pip install --no-deps "$@"
}

# mmcv's setup.py compiles for CUDA if a GPU is visible or FORCE_CUDA is 1, and stops then
# if nvcc is missing.
explain_compilation() {
  echo "There is no wheel of $mmcv for $pair and this Python."
  if [ "${FORCE_CUDA:-0}" != 1 ] && ! "$python" -c '
import torch
raise SystemExit(not torch.cuda.is_available())'; then
    echo "PyTorch finds no GPU: the operators are compiled for the CPU only. With FORCE_CUDA=1"
    echo "in the environment, and nvcc, they are compiled for CUDA, too."
  elif command -v nvcc || [ -x "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" ]; then
    echo "nvcc was found: the operators are compiled for the CPU and for CUDA."
  else
    echo "nvcc was not found: the operators are compiled for the CPU only. For a GPU, use"
    echo "OPS=torchvision, or a wheel with CUDA operators: docs/install.md lists them."
    export FORCE_CUDA=0 CUDA_VISIBLE_DEVICES=
  fi
  echo "Compiling takes about 30 minutes of CPU time. Ctrl-C stops it."
}

# onedl-mmcv==2.3.6, or mmcv-lite==2.1.0, which is mmcv==2.1.0 without operators
pin=$(grep -oE '^(onedl-mmcv|mmcv-lite)==[0-9.]+' "requirements/$stack.txt")

state=$(compiled_operators)
if [ "$state" = works ]; then
  echo "mmcv has compiled operators, which stay."
elif [ "$ops" = torchvision ]; then
  # Build isolation hides torch from the build, and mmcv then leaves out its operators.
  # pip's cache and --find-links may hold an mmcv that was compiled for another torch.
  case $pin in onedl-*) set -- --no-cache-dir --no-binary onedl-mmcv ;; *) set -- ;; esac
  [ "$state" = none ] || set -- "$@" --force-reinstall
  pip_install "$@" "$pin"
else
  versions=$("$python" -c '
import torch
cuda = torch.version.cuda
print("cu" + cuda.replace(".", "") if cuda else "cpu", torch.__version__.split("+")[0])')
  device=${versions% *} torch=${versions#* }
  if [ "$stack" = onedl ]; then
    mmcv=$pin
    pair=$device-torch$(echo "$torch" | tr -d .)
    page=https://mmwheels.onedl.ai/$pair/simple/onedl-mmcv/index.html
  else
    mmcv=mmcv==${pin#*==}
    pair=$device/torch${torch%.*}.0
    page=https://download.openmmlab.com/mmcv/dist/$pair/index.html
    "$python" -m pip uninstall --yes mmcv-lite
  fi
  if ! pip_install --force-reinstall --retries 1 --timeout 20 --only-binary :all: \
      --find-links "$page" "$mmcv" || [ "$(compiled_operators)" != works ]; then
    explain_compilation
    pip_install --force-reinstall --no-build-isolation "$mmcv"
    # The cache may have held one without operators, or one for another torch.
    [ "$(compiled_operators)" = works ] || pip_install --force-reinstall \
      --no-build-isolation --no-cache-dir --no-binary "${mmcv%%=*}" "$mmcv"
  fi
fi
