"""Write the stand-in for mmcv's compiled operators into mmcv, or delete it.

It consists of one module, ``mmcv/_ext.py``, and of copies of
:mod:`ra_mm.mmcv_ops.operators` beside it, so it works without ra_mm too. Python
prefers a compiled ``_ext`` to it.
"""

import importlib.util
import re
import shutil
import sys
from contextlib import suppress
from importlib import metadata
from pathlib import Path

from ra_mm import __version__
from ra_mm.errors import UserError, translate_errors
from ra_mm.fileio import atomic_write

PROG = 'python -m ra_mm.mmcv_ops'
MARKER = '# Written by ra_mm'
COPY = '_torchvision_ops'  # the folder of the copies
MODULE = f"""\
{MARKER} {__version__}, not part of mmcv. To remove it, run
#     {PROG} remove
# or delete this file and the folder {COPY} beside it.
from .{COPY} import __getattr__
"""
COVERAGE = """\
covered, on the CPU and on CUDA, with any floating-point type:
  by torchvision  nms, batched_nms; RoIAlign (average); deformable convolution
                  v1 and v2 (DCN, DCNv2)
  by PyTorch      RoIPool, soft_nms, sigmoid_focal_loss, multi-scale deformable
                  attention
not covered, raising an error when called: RoIAlign (maximum) and all other
operators, such as CARAFE, masked convolution (guided anchoring), deformable RoI
pooling, PSAMask and those for rotated boxes"""

WITHOUT_OPERATORS = (
    'pip install --no-cache-dir --no-binary onedl-mmcv onedl-mmcv; or, for the '
    "original packages, pip install --no-build-isolation 'setuptools<82' "
    'mmcv-lite==2.1.0'
)


def find_mmcv() -> Path:
    """Find the folder of the installed mmcv, without importing it."""
    spec = importlib.util.find_spec('mmcv')
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f'mmcv is not installed in {sys.prefix}: {WITHOUT_OPERATORS}')
    return Path(next(iter(spec.submodule_search_locations)))


def mmcv_distribution() -> tuple[str, str]:
    """Return the distribution that mmcv comes from and its version.

    Raises:
        UserError: If it is not exactly one, or its version is not known to fit.
    """
    found = set(metadata.packages_distributions().get('mmcv', ()))
    if len(found) != 1:
        raise UserError(
            f'{find_mmcv()} belongs to {" and ".join(sorted(found)) or "nothing"}, '
            'but must belong to one distribution: uninstall what is there, then '
            f'{WITHOUT_OPERATORS}'
        )
    (name,) = found
    version = metadata.version(name)
    if not (2, 1) <= tuple(map(int, re.findall(r'\d+', version)[:2])) < (2, 4):
        raise UserError(
            f'{name} {version}: the operators fit mmcv 2.1 up to, but not '
            'including, 2.4'
        )
    return name, version


def compiled_operators(folder: Path) -> list[Path]:
    """List the compiled operator modules in mmcv's folder."""
    return sorted(p for p in folder.glob('_ext*') if p.suffix in ('.so', '.pyd'))


def contents() -> dict[str, str]:
    """Return the text of each file of the stand-in, by its path in mmcv's folder."""
    sources = sorted(Path(__file__).with_name('operators').glob('*.py'))
    copies = {f'{COPY}/{p.name}': p.read_text(encoding='utf-8') for p in sources}
    return {**copies, '_ext.py': MODULE}  # written last, since it needs the others


def check_torchvision() -> str:
    """Return torchvision's version.

    Raises:
        UserError: If its operators do not work with the installed torch.
    """
    pair = 'torch torchvision'
    with suppress(metadata.PackageNotFoundError):
        minor = metadata.version('torch').split('.')[1]
        pair = f'"torchvision==0.{int(minor) + 15}.*"'
    what = f'the operators of torchvision do not work, try pip install {pair}'
    with translate_errors(what):
        import torch
        import torchvision

        torch.ops.torchvision.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    return torchvision.__version__


def install() -> str:
    """Write the stand-in into mmcv.

    Returns:
        str: What was done.

    Raises:
        UserError: If it must not be written; nothing has changed.
    """
    folder = find_mmcv()
    name, version = mmcv_distribution()
    if compiled := compiled_operators(folder):
        raise UserError(
            f'{compiled[0]}: {name} {version} has compiled operators, which Python '
            'prefers; nothing was written. If they do not fit this torch: '
            f'pip uninstall -y {name}, then {WITHOUT_OPERATORS}'
        )
    path = folder / '_ext.py'
    if path.exists():
        _check_is_ours(path)
    torchvision = check_torchvision()
    for relative, text in contents().items():
        with atomic_write(folder / relative) as f:
            f.write(text)
    return f'{path} written: {name} {version} on torchvision {torchvision}'


def remove() -> str:
    """Delete the stand-in.

    Returns:
        str: What was done.

    Raises:
        UserError: If there is none of ra_mm.
    """
    path = find_mmcv() / '_ext.py'
    if not path.exists():
        raise UserError(f'{path} does not exist: there is nothing to remove')
    _check_is_ours(path)
    path.unlink()
    Path(importlib.util.cache_from_source(path)).unlink(missing_ok=True)
    shutil.rmtree(path.with_name(COPY), ignore_errors=True)
    return f'{path} removed'


def is_in_use() -> bool:
    """Whether mmcv would import the stand-in, not compiled operators."""
    spec = importlib.util.find_spec('mmcv._ext')
    return spec is not None and str(spec.origin).endswith('.py')


def status() -> str:
    """Describe the operators that mmcv uses."""
    folder = find_mmcv()
    path = folder / '_ext.py'
    name, version = mmcv_distribution()
    state = f'{name} {version} in {folder}: '
    if compiled := compiled_operators(folder):
        return f'{state}compiled operators ({compiled[0].name})'
    if not path.exists():
        return f'{state}no operators; {PROG} install'
    if not _is_ours(path):
        return f'{state}{path.name}, which is not from ra_mm'
    state += f'the stand-in, on torchvision {check_torchvision()}'
    if any(_read(folder / file) != text for file, text in contents().items()):
        state += f'; it is not that of ra_mm {__version__}: {PROG} install renews it'
    return f'{state}\n{COVERAGE}'


def _check_is_ours(path):
    if not _is_ours(path):
        raise UserError(
            f'{path} is not from ra_mm and stays as it is; nothing was changed'
        )


def _is_ours(path):
    return _read(path).startswith(MARKER)


def _read(path):
    return path.read_text(encoding='utf-8', errors='replace') if path.exists() else ''
