"""Whether the installation is sound and, if not, what to do about it.

::

    python -m ra_mm.check_env

This has to run where nothing else does. So only the standard library is
imported at the top; versions are read from the packages' metadata; and then
the packages are imported and tried, one after another.
"""

import faulthandler
import io
import os
import platform
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module, metadata
from importlib.util import find_spec

# Import names, in the order in which they are tried.
BASE = ('numpy', 'torch', 'torchvision', 'mmengine', 'mmcv')
TOOLBOXES = ('mmdet', 'mmseg', 'mmpretrain')
NEEDED = (*BASE, 'mmpretrain')  # by what comes after them
OPENMMLAB = ('mmengine', 'mmcv', *TOOLBOXES)
EXTRA = 'onedl'  # in setup.py: the distributions that have these names

INSTALL = f"in ra_mm's checkout, pip install --no-build-isolation -e '.[{EXTRA}]'"
REBUILD = (
    'with torch installed, pip install --no-build-isolation '
    '--no-cache-dir --force-reinstall --no-deps {distribution}'
)
# What an exception's text tells, and what to do. The first that matches.
ADVICE = {
    r"No module named 'mmcv\._ext'": 'mmcv was built without its operators, as happens where torch is not '
    f'installed or hidden by build isolation: {REBUILD}',
    r'implementation for device': 'mmcv was built without CUDA operators: install a wheel for this torch '
    f'and CUDA or, where nvcc is, {REBUILD}',
    r'torchvision::nms|TORCH_LIBRARY': 'torchvision was compiled for another torch: install the two together, '
    'in versions that belong together (https://pytorch.org/get-started)',
    r'(?i)numpy[. ](core|_core|dtype|is not available)|_ARRAY_API': '{distribution} was compiled for another numpy (1 or 2): '
    'pip install --upgrade {distribution}, or change numpy',
    r'undefined symbol|cannot open shared object|DLL load failed': '{distribution} was compiled for another torch or CUDA: install a wheel '
    f'for these or, {REBUILD}',
    r"No module named '([\w.]+)'": 'a package that {distribution} needs is missing: '
    'pip install --no-build-isolation {distribution} installs it',
}


def main() -> int:
    """Print what is installed and what is wrong with it.

    Returns:
        int: 0 if nothing is wrong, otherwise 1.
    """
    faulthandler.enable()  # a library that fits nothing may end the process
    warnings.simplefilter('ignore')
    owners = distributions()
    problems = [*_missing(), *mismatches(owners)]

    print(f'{"Python":13}{platform.python_version()}, {sys.executable}')
    stop = False
    for name in (*BASE, *TOOLBOXES, 'ra_mm'):
        print(f'{name:13}{_described(name, owners)}', end='', flush=True)
        if find_spec(name) is None:
            stop = stop or name in NEEDED
            print()
            continue
        if stop:
            print(' (not tried, for want of the above)')
            continue
        try:
            with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
                works = _try(name)
        except (Exception, SystemExit) as e:
            problems.append(_explained(name, e, owners))
            stop = stop or name in NEEDED
            print(' FAILS')
        else:
            print(works)
    if find_spec('onnxruntime'):
        print(f'{"onnxruntime":13}{_described("onnxruntime", owners)}')
    print(f'{"devices":13}{_devices()}\n')

    if not problems:
        print('Nothing is wrong.')
        return 0
    print('This is wrong:')
    for problem in problems:
        print(f'- {problem}')
    return 1


# By the metadata


def _missing():
    names = {}
    for name in (*BASE, *TOOLBOXES):
        if find_spec(name) is None:
            names.setdefault(_remedy(name), []).append(name)
    for remedy, missing in names.items():
        yield f'not installed: {", ".join(missing)}: {remedy}'


def distributions() -> dict[str, list[str]]:
    """The names of the installed distributions by import name.

    As metadata.packages_distributions(), which in Python 3.10 misses those
    without top_level.txt.
    """
    owners = {}
    for distribution in metadata.distributions():
        owner = distribution.metadata['Name']
        names = (distribution.read_text('top_level.txt') or '').split() or [
            file.parts[0].removesuffix('.py')
            for file in distribution.files or ()
            if file.suffix == '.py'
        ]
        for name in names if owner else ():
            owners.setdefault(name, set()).add(_canonical(owner))
    return {name: sorted(found) for name, found in owners.items()}


def mismatches(owners: dict[str, list[str]]) -> Iterator[str]:
    """What is wrong by the metadata of what is installed.

    Args:
        owners (dict[str, list[str]]): From :func:`distributions`.

    Yields:
        str: Each problem, with what to do about it.
    """
    for name in (*OPENMMLAB, 'ra_mm'):
        if find_spec(name) and not owners.get(name):
            yield (
                f'{name} is found in {_folder(name)}, but is not '
                f'installed: {_remedy(name)}'
            )
    mixed = False
    for name in OPENMMLAB:
        if len(owners.get(name, [])) > 1:
            mixed = True
            yield (
                f'{name} is installed twice, one over the other, as '
                f'{" and ".join(owners[name])}: pip uninstall '
                f'{" ".join(owners[name])}, then {INSTALL}'
            )
    try:
        from packaging.requirements import Requirement
        from packaging.specifiers import SpecifierSet
    except ImportError:
        yield (
            'packaging is not installed, without which versions cannot be '
            'compared: pip install packaging'
        )
        return
    if owners.get('ra_mm'):
        python = metadata.metadata('ra_mm')['Requires-Python'] or ''
        if platform.python_version() not in SpecifierSet(python):
            yield (f'Python {platform.python_version()}: ra_mm needs {python}')
        if not mixed:
            yield from _untried(owners, Requirement)

    names = ('torch', 'torchvision', *OPENMMLAB, 'ra_mm')
    for owner in sorted({o for name in names for o in owners.get(name, [])}):
        for text in metadata.requires(owner) or []:
            need = Requirement(text)
            version = _version(need.name)
            if version is None or (
                need.marker and not need.marker.evaluate({'extra': ''})
            ):
                continue  # what is missing shows when it is imported
            if not need.specifier.contains(version, prereleases=True):
                yield (
                    f'{owner} {_version(owner)} needs {need.name}'
                    f'{need.specifier} and does not fit {need.name} '
                    f'{version}: change one of the two'
                )


def _untried(owners, Requirement):
    """What is not of the extra, or of another version than it asks for."""
    needs = map(Requirement, metadata.requires('ra_mm') or [])
    wanted = {
        _canonical(need.name): need.specifier
        for need in needs
        if need.marker and need.marker.evaluate({'extra': EXTRA})
    }
    others = {}
    for name in OPENMMLAB:
        for owner in owners.get(name, []):
            version = _version(owner)
            if owner not in wanted:
                others[owner] = f'{owner} {version}'
            elif not wanted[owner].contains(version, prereleases=True):
                yield (
                    f'{owner} {version} has not been tried with ra_mm: '
                    'pip install --no-build-isolation '
                    f"'{owner}{wanted[owner]}'"
                )
    if others:
        yield (
            f'{", ".join(others.values())}: ra_mm does not run on these, '
            'the maintained fork has to take their place: pip uninstall '
            f'{" ".join(others)}, then {INSTALL}'
        )


def _canonical(distribution):
    return re.sub(r'[-_.]+', '-', distribution).lower()


def _version(distribution) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _folder(name):
    spec = find_spec(name)
    return (
        os.path.dirname(spec.origin)
        if spec.origin
        else list(spec.submodule_search_locations)[0]
    )


def _described(name, owners):
    if find_spec(name) is None:
        return 'not installed'
    return (
        ' and '.join(
            _version(owner) + ('' if owner == _canonical(name) else f' ({owner})')
            for owner in owners.get(name, [])
        )
        or f'unknown, {_folder(name)}'
    )


def _remedy(name):
    if name in OPENMMLAB:
        return INSTALL
    if name == 'ra_mm':
        return 'in its checkout, pip install --no-build-isolation --no-deps -e .'
    return 'pip install torch torchvision numpy'


# By trial


def _try(name) -> str:
    """Import a package and let it work.

    Returns:
        str: What to add to its line.
    """
    if name in TOOLBOXES:
        import_module(f'{name}.apis')  # and whatever that imports
    elif name == 'ra_mm':
        import_module('ra_mm.backbones')
        return f', {_folder(name)}'
    elif name == 'torch':
        torch = import_module('torch')
        torch.zeros(1).numpy()
        cuda = torch.version.cuda
        return f', CUDA {cuda}' if cuda else ', CPU only'
    elif name == 'torchvision':
        _suppress(import_module('torchvision.ops').nms, 'cpu')
    elif name == 'mmengine':
        import_module('mmengine.runner')
    elif name == 'mmcv':
        nms = import_module('mmcv.ops').nms
        devices = ['cpu']
        if import_module('torch').cuda.is_available():
            devices.append('cuda')
        for device in devices:
            _suppress(lambda *args: nms(*args)[1], device)
        return f', operators run on {" and ".join(devices)}'
    else:
        import_module(name)
    return ''


def _suppress(nms, device):
    """Of two boxes that overlap by 3/4 the better one is kept, the second."""
    tensor = import_module('torch').tensor
    boxes = tensor([[0.0, 0.0, 4.0, 3.0], [0.0, 0.0, 4.0, 4.0]], device=device)
    kept = nms(boxes, tensor([0.1, 0.9], device=device), 0.5).tolist()
    if kept != [1]:
        raise RuntimeError(f'nms on {device} keeps the boxes {kept}, not [1]')


def _explained(name, error, owners):
    text = str(error).strip() or 'no message'
    text = f'{type(error).__name__}: {text.splitlines()[0]}'
    distribution = (owners.get(name) or [name])[0]
    for pattern, advice in ADVICE.items():
        if re.search(pattern, str(error)):
            advice = advice.format(distribution=distribution)
            return f'{name} does not work ({text}): {advice}'
    return f'{name} does not work ({text})'


def _devices():
    cpu = f'CPU ({os.cpu_count()} cores)'
    torch = sys.modules.get('torch')
    try:
        names = [
            torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())
        ]
    except Exception:  # no torch, or a broken one, of which is told above
        names = []
    return ', '.join([cpu, *names]) + ('' if names else ', no GPU')


if __name__ == '__main__':
    sys.exit(main())
