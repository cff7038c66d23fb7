"""Run mmcv without compiling it, on torchvision's operators.

    python -m ra_mm.mmcv_ops install | remove | status

``install`` writes one module, ``mmcv/_ext.py``, into an mmcv that was installed
without its compiled operators. Python prefers compiled operators to it, so they
are used as soon as they are installed.
"""

import argparse
import importlib.util
import re
import sys
from contextlib import suppress
from importlib import metadata
from pathlib import Path

from ra_mm import __version__
from ra_mm.errors import UserError
from ra_mm.fileio import atomic_write

PROG = 'python -m ra_mm.mmcv_ops'
MARKER = '# Written by ra_mm'
HEADER = f"""\
{MARKER} {__version__}, not part of mmcv. To remove it, delete this file or run
#     {PROG} remove
"""
# Distributions that install a package named mmcv.
DISTRIBUTIONS = ('onedl-mmcv', 'mmcv', 'mmcv-lite', 'mmcv-full')
# The first version that fits, and the first that is not known to.
VERSIONS = (2, 1), (2, 4)

COVERAGE = """\
covered, on the CPU and on CUDA, with any floating-point type:
  by torchvision  nms, batched_nms; RoIAlign (average); deformable convolution
                  v1 and v2 (DCN, DCNv2)
  by PyTorch      RoIPool, soft_nms, sigmoid_focal_loss
not covered, raising an error when called: RoIAlign (maximum) and all other
operators, such as multi-scale deformable attention on CUDA, CARAFE and those
for rotated boxes"""


def find_mmcv() -> Path:
    """Find the folder of the installed mmcv, without importing it."""
    spec = importlib.util.find_spec('mmcv')
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            'mmcv is not installed in this environment '
            f'({sys.prefix}): pip install onedl-mmcv, which compiles nothing '
            'unless --no-build-isolation is passed; or, for the original packages, '
            "pip install --no-build-isolation 'setuptools<82' mmcv-lite==2.1.0"
        )
    return Path(next(iter(spec.submodule_search_locations)))


def mmcv_distribution() -> tuple[str, str]:
    """Return the distribution that mmcv comes from and its version.

    Raises:
        UserError: If it is not exactly one, or its version is not known to fit.
    """
    found = {}
    for name in DISTRIBUTIONS:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    if not found:
        raise UserError(
            f'{find_mmcv()} belongs to none of the distributions '
            f'{", ".join(DISTRIBUTIONS)}: install one of the first three'
        )
    if len(found) > 1:
        raise UserError(
            f'{" and ".join(found)} are both installed and write into one folder: '
            f'pip uninstall -y {" ".join(found)}, then install one of them'
        )
    ((name, version),) = found.items()
    numbers = tuple(map(int, re.findall(r'\d+', version)[:2]))
    first, end = VERSIONS
    if not first <= numbers < end:
        raise UserError(
            f'{name} {version}: the operators fit mmcv {_dotted(first)} up to, but '
            f'not including, {_dotted(end)}'
        )
    return name, version


def _dotted(numbers):
    return '.'.join(map(str, numbers))


def compiled_operators(folder: Path) -> list[Path]:
    """List the compiled operator modules in mmcv's folder."""
    return sorted(p for p in folder.glob('_ext*') if p.suffix in ('.so', '.pyd'))


def stand_in_text() -> str:
    """Return what ``install`` writes: a copy, so it works without ra_mm too."""
    source = Path(__file__).with_name('_mmcv_ext.py')
    return HEADER + source.read_text(encoding='utf-8')


def check_torchvision() -> str:
    """Return torchvision's version.

    Raises:
        UserError: If its operators do not work with the installed torch.
    """
    try:
        import torch
        import torchvision

        torch.ops.torchvision.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    except Exception as e:  # an import runs other people's code
        versions = {'torch': None, 'torchvision': None}
        for name in versions:
            with suppress(metadata.PackageNotFoundError):
                versions[name] = metadata.version(name)
        fitting = 'torch and torchvision'
        if versions['torch']:
            minor = int(versions['torch'].split('.')[1])
            fitting = f'"torchvision==0.{minor + 15}.*"'
        found = ' and '.join(
            f'{k} {v}' if v else f'no {k}' for k, v in versions.items()
        )
        raise UserError(
            f'{found} in this environment: pip install {fitting} '
            f'({type(e).__name__}: {e})'
        ) from e
    return torchvision.__version__


def _is_ours(path):
    with path.open(encoding='utf-8', errors='replace') as f:
        return f.readline().startswith(MARKER)


def install() -> str:
    """Write the stand-in into mmcv.

    Returns:
        str: What was done.

    Raises:
        UserError: If it cannot or must not be written; nothing has changed.
    """
    folder = find_mmcv()
    path = folder / '_ext.py'
    name, version = mmcv_distribution()
    if compiled := compiled_operators(folder):
        without = f'--no-cache-dir --no-binary onedl-mmcv onedl-mmcv=={version}'
        if name != 'onedl-mmcv':  # setuptools 82 lacks what its build needs
            without = f"--no-build-isolation 'setuptools<82' mmcv-lite=={version}"
        raise UserError(
            f'{compiled[0]}: {name} {version} has compiled operators, which Python '
            'prefers; nothing was written. If they do not fit this torch, install '
            f'mmcv without them first: pip uninstall -y {name}; pip install {without}'
        )
    if path.exists() and not _is_ours(path):
        raise UserError(
            f'{path} is not from ra_mm and stays as it is; nothing was written'
        )
    torchvision = check_torchvision()
    try:
        with atomic_write(path) as f:
            f.write(stand_in_text())
    except OSError as e:
        raise UserError(
            f'{path} cannot be written ({e.strerror}): run this as the owner of the '
            'environment, or make an environment of your own'
        ) from e
    return f'{path} written: {name} {version} on torchvision {torchvision}'


def remove() -> str:
    """Delete the stand-in.

    Returns:
        str: What was done.

    Raises:
        UserError: If there is none, or it cannot be deleted.
    """
    path = find_mmcv() / '_ext.py'
    if not path.exists():
        raise UserError(f'{path} does not exist: there is nothing to remove')
    if not _is_ours(path):
        raise UserError(f'{path} is not from ra_mm and stays as it is')
    try:
        path.unlink()
        Path(importlib.util.cache_from_source(path)).unlink(missing_ok=True)
    except OSError as e:
        raise UserError(f'{path} cannot be deleted: {e.strerror}') from e
    return f'{path} removed'


def status() -> str:
    """Describe the operators that mmcv uses."""
    folder = find_mmcv()
    path = folder / '_ext.py'
    name, version = mmcv_distribution()
    state = f'{name} {version} in {folder}: '
    compiled = compiled_operators(folder)
    if compiled:
        state += f'compiled operators ({compiled[0].name})'
        if path.exists():
            state += f'; {path.name} beside them is not used'
    elif not path.exists():
        state += f'no operators; {PROG} install'
    elif not _is_ours(path):
        state += f'{path.name}, which is not from ra_mm'
    else:
        state += f'the stand-in, on torchvision {check_torchvision()}'
        if path.read_text(encoding='utf-8') != stand_in_text():
            state += (
                f'; it differs from that of ra_mm {__version__}: {PROG} install '
                'renews it'
            )
        state += f'\n{COVERAGE}'
    return state


def main(argv: list[str] | None = None) -> None:
    commands = {'install': install, 'remove': remove, 'status': status}
    parser = argparse.ArgumentParser(
        prog=PROG,
        description="Put torchvision's operators in the place of mmcv's compiled "
        'ones, so that mmcv needs no compilation.',
        epilog=COVERAGE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        'command',
        choices=commands,
        help='write the stand-in, delete it, or say which operators mmcv uses',
    )
    args = parser.parse_args(argv)
    # Not ra_mm.cli.report_user_errors, whose imports need a working mmcv.
    try:
        print(commands[args.command]())
    except UserError as e:
        sys.exit(f'{PROG}: error: {e}')


if __name__ == '__main__':
    main()
