"""Check the installation: ``python -m ra_mm.check_env``.

Prints the version of each package, tries the package, and says how to repair what
does not work. Only the standard library is imported at the top, because this command
is for installations in which other imports fail.
"""

import faulthandler
import io
import os
import platform
import re
import sys
import warnings
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module, metadata
from importlib.util import find_spec

# Each package, and the ones that must work before it is worth trying.
PACKAGES = {
    'numpy': (),
    'torch': (),
    'torchvision': ('torch',),
    'mmengine': ('numpy', 'torch'),
    'mmcv': ('mmengine',),
    'mmdet': ('mmcv', 'torchvision'),
    'mmseg': ('mmcv', 'torchvision'),
    'mmpretrain': ('mmcv', 'torchvision'),
    'ra_mm': ('torch',),
}
OPTIONAL = ('mmdet', 'mmseg')  # the other toolboxes can be used without them

# Distributions by import name. Those of the maintained fork (onedl-*) and the originals
# have the same import names, so pip installs them over each other.
DISTRIBUTIONS = {
    'mmengine': ['onedl-mmengine', 'mmengine', 'mmengine-lite'],
    'mmcv': ['onedl-mmcv', 'mmcv', 'mmcv-lite', 'mmcv-full'],
    'mmdet': ['onedl-mmdetection', 'mmdet'],
    'mmseg': ['onedl-mmsegmentation', 'mmsegmentation'],
    'mmpretrain': ['onedl-mmpretrain', 'mmpretrain'],
}

STAND_IN = (
    "python -m ra_mm.mmcv_ops install puts torchvision's operators in their place, "
    'without compiling'
)
REBUILD = (
    'in an environment that has torch (and nvcc, for CUDA operators), pip install '
    '--no-build-isolation --no-cache-dir --force-reinstall --no-deps {distribution}'
)
# Patterns of error messages, and what to do about them; the first match counts.
ADVICE = {
    r"No module named 'mmcv\._ext'": 'mmcv was built without its operators: '
    f'{STAND_IN}; or, {REBUILD}',
    r"No module named 'pkg_resources'": "pip install 'setuptools<82', the last with it",
    r'no kernel image': '{distribution} has no code for the compute capability of this GPU '
    '(torch.cuda.get_device_capability()): install a wheel that has, or set '
    f'TORCH_CUDA_ARCH_LIST to it and compile: {REBUILD}',
    r'lib(GL|EGL|gthread|glib|SM|ICE|X\w+)\b.*cannot open shared object': 'OpenCV needs '
    'a system library: apt-get install libgl1 libglib2.0-0, or replace opencv-python '
    'with opencv-python-headless',
    r'GLIBCXX_|CXXABI_|GLIBC_': '{distribution} was compiled on a newer system: update the '
    'C++ runtime if it names GLIBCXX or CXXABI (conda install -c conda-forge '
    f'libstdcxx-ng), or compile it here: {REBUILD}',
    r'implementation for device': 'mmcv was built without CUDA operators: install a '
    'wheel for this torch and CUDA, if there is one; otherwise use those of torchvision '
    f'(python -m ra_mm.mmcv_ops install says how) or, {REBUILD}',
    r'torchvision::nms|TORCH_LIBRARY|custom C\+\+ ops': 'torchvision was compiled for '
    'another torch: install a matching pair (https://pytorch.org/get-started)',
    r'(?i)numpy[. ](core|_core|dtype|is not available)|_ARRAY_API': '{distribution} '
    'was compiled for another major version of numpy: upgrade it, or change numpy',
    r'undefined symbol|cannot open shared object|DLL load failed': '{distribution} was '
    'compiled for another torch or CUDA: install a wheel that fits, if there is one '
    f'(for mmcv, python -m ra_mm.mmcv_ops install says how to do without) or, {REBUILD}',
    r"No module named '([\w.]+)'": 'a dependency is missing: '
    'pip install --no-build-isolation {distribution} installs it',
}


def main() -> int:
    """Print what is installed and what is wrong with it.

    Returns:
        0 if nothing is wrong, otherwise 1.
    """
    faulthandler.enable()  # a mismatched library may crash the process
    warnings.simplefilter('ignore')
    problems = [*_missing(), *_overwritten(), *_mixed()]
    working = set()
    print(f'{"Python":13}{platform.python_version()}, {sys.executable}')
    for name, needs in PACKAGES.items():
        print(f'{name:13}{_describe(name)}', end='', flush=True)
        blockers = [need for need in needs if need not in working]
        if find_spec(name) is None:
            print()
        elif blockers:
            print(f', not tried: needs {" and ".join(blockers)}')
        else:
            try:
                with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
                    result = _try(name, working)
            except (Exception, SystemExit) as e:
                problems.append(_explain(name, e))
                print(', FAILS')
            else:
                working.add(name)
                print(result)
    print(f'{"devices":13}{_devices(working)}\n')
    print('Problems:' if problems else 'Nothing is wrong.', *problems, sep='\n- ')
    if not _openmmlab():
        print(
            '\nNo package of OpenMMLab is installed: ra_mm.convert, ra_mm.TempSchedule '
            f'and ra_mm.layers work without.\n{_how_to_install(DISTRIBUTIONS, True)}'
        )
    return bool(problems)


def _missing():
    missing = [name for name in PACKAGES if find_spec(name) is None]
    found = _openmmlab()
    if not found:  # used with PyTorch alone
        missing = [name for name in missing if name == 'torch']
    if names := [name for name in missing if name not in DISTRIBUTIONS]:
        yield f'not installed: {", ".join(names)}: pip install {" ".join(names)}'
    if names := [
        name for name in missing if name in {*DISTRIBUTIONS}.difference(OPTIONAL)
    ]:
        fork = any(name.startswith('onedl-') for name in found)
        yield (
            f'not installed: {", ".join(names)}, which the backbones and hooks in '
            f'configs need. {_how_to_install(names, fork)}'
        )


def _how_to_install(names, fork):
    extra, mmcv = ('onedl', 'onedl-mmcv') if fork else ('openmmlab', 'mmcv-lite==2.1.0')
    isolation = '' if fork else '--no-build-isolation '
    commands = ['pip install -r requirements/build.txt']
    if 'mmcv' in names:  # else it would be installed over the one that is there
        commands.append(f'pip install {isolation}{mmcv}')
    commands.append(f"pip install --no-build-isolation -e '.[{extra}]'")
    if 'mmcv' in names:
        commands.append('python -m ra_mm.mmcv_ops install')
    return f'To get all without compiling, in a clone of ra_mm: {"; ".join(commands)}'


def _overwritten():
    for name in DISTRIBUTIONS:
        if len(found := _installed(name)) > 1:
            yield (
                f'{name} is installed twice, as {" and ".join(found)}, which overwrite '
                f"each other's files: pip uninstall {' '.join(found)}, then install one"
            )


def _mixed():
    found = _openmmlab()
    fork = [name for name in found if name.startswith('onedl-')]
    originals = [name for name in found if name not in fork]
    if fork and originals and not [*_overwritten()]:
        yield (
            f'{", ".join(fork)} (the fork) and {", ".join(originals)} (the originals) '
            'are not made for each other: install all packages of one set'
        )


def _installed(name):
    """The installed distributions that provide a package, and their versions."""
    versions = {}
    for distribution in DISTRIBUTIONS.get(name, [name]):
        try:
            versions[distribution] = metadata.version(distribution)
        except metadata.PackageNotFoundError:
            pass
    return versions


def _openmmlab():
    """The installed distributions of OpenMMLab's packages."""
    return [name for package in DISTRIBUTIONS for name in _installed(package)]


def _describe(name):
    spec = find_spec(name)
    if spec is None:
        return 'not installed'
    found = _installed(name).items()
    return (
        ' and '.join(
            f'{version} ({distribution})' if name in DISTRIBUTIONS else version
            for distribution, version in found
        )
        or f'unknown version in {[*spec.submodule_search_locations][0]}'
    )


def _try(name, working) -> str:
    """Import a package, use it, and return what to add to its line."""
    module = import_module(name)
    if name == 'torch':
        if 'numpy' in working:
            module.zeros(1).numpy()
        return f', CUDA {module.version.cuda}' if module.version.cuda else ', CPU only'
    if name == 'torchvision':
        _check_nms(import_module('torchvision.ops').nms, 'cpu')
    elif name == 'mmengine':
        import_module('mmengine.runner')
    elif name == 'mmcv':
        nms = import_module('mmcv.ops').nms
        devices = ['cpu', 'cuda'][: 1 + import_module('torch').cuda.is_available()]
        for device in devices:
            _check_nms(lambda *args: nms(*args)[1], device)
        spec = find_spec('mmcv._ext')
        is_compiled = spec is None or not spec.origin.endswith('.py')
        whose = 'operators' if is_compiled else "torchvision's operators (a stand-in)"
        return f', {whose} run on {" and ".join(devices)}'
    elif name in DISTRIBUTIONS:
        import_module(f'{name}.apis')
    elif name == 'ra_mm':
        import_module('ra_mm.backbones' if 'mmpretrain' in working else 'ra_mm.layers')
        return f', {os.path.dirname(module.__file__)}'
    return ''


def _check_nms(nms, device):
    """Of two boxes that overlap by 3/4, the second has the higher score."""
    tensor = import_module('torch').tensor
    boxes = tensor([[0.0, 0.0, 4.0, 3.0], [0.0, 0.0, 4.0, 4.0]], device=device)
    kept = nms(boxes, tensor([0.1, 0.9], device=device), 0.5).tolist()
    if kept != [1]:
        raise RuntimeError(f'nms on {device} keeps the boxes {kept}, not [1]')


def _explain(name, error):
    first_line = (str(error).strip() or 'no message').splitlines()[0]
    problem = f'{name} does not work ({type(error).__name__}: {first_line})'
    for pattern, advice in ADVICE.items():
        if re.search(pattern, str(error)):
            distribution = [*_installed(name), *DISTRIBUTIONS.get(name, [name])][0]
            return f'{problem}: {advice.format(distribution=distribution)}'
    return problem


def _devices(working):
    cuda = import_module('torch').cuda if 'torch' in working else None
    gpus = [cuda.get_device_name(i) for i in range(cuda.device_count())] if cuda else []
    return ', '.join([f'CPU ({os.cpu_count()} cores)', *(gpus or ['no GPU'])])


if __name__ == '__main__':
    sys.exit(main())
