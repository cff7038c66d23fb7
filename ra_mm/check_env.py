"""Check the installation: ``python -m ra_mm.check_env``.

Prints the version of each package, tries the package, and says how to repair what
does not work. Only the standard library is imported at the top, because this command
is for installations in which other imports fail.
"""

import faulthandler
import io
import os
import platform
import subprocess
import sys
import warnings
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module, metadata
from importlib.util import find_spec

OPENMMLAB = ('mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain')
OPTIONAL = ('mmdet', 'mmseg')  # the other toolboxes can be used without them
# Each package, and the ones that must work before it is worth trying.
PACKAGES: dict = dict(numpy=(), torch=(), torchvision=('torch',))
PACKAGES |= dict(mmengine=('numpy', 'torch'), mmcv=('mmengine',))
PACKAGES |= dict.fromkeys(('mmdet', 'mmseg', 'mmpretrain'), ('mmcv', 'torchvision'))
PACKAGES |= dict(ra_mm=('torch',))
REMEDIES = {
    'torchvision': 'install the version for this torch (https://pytorch.org/get-started)',
    'mmcv': "without operators for this torch or GPU, torchvision's can take their "
    'place: python -m ra_mm.mmcv_ops install',
}
INSTALL = '`make install` in a clone of ra_mm installs all of them; see docs/install.md'


def main() -> int:
    """Print what is installed and what is wrong with it.

    Returns:
        0 if nothing is wrong, otherwise 1.
    """
    faulthandler.enable()  # a mismatched library may crash the process
    warnings.simplefilter('ignore')
    found = find_distributions()
    problems = check_distributions(found)
    working: set[str] = set()
    print(f'{"Python":13}{platform.python_version()}, {sys.executable}')
    for name, needs in PACKAGES.items():
        versions = ' and '.join(f'{v} ({d})' for d, v in found[name].items())
        print(f'{name:13}{versions}', end='')
        if find_spec(name) is None:
            print('not installed')
        elif blockers := [need for need in needs if need not in working]:
            print(f', not tried: needs {" and ".join(blockers)}')
        else:
            try:
                with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
                    result = try_package(name, working)
            except (Exception, SystemExit) as e:
                remedy = REMEDIES.get(name, 'docs/troubleshooting.md lists such errors')
                problems.append(f'{name}: {type(e).__name__}: {e}: {remedy}')
                print(', FAILS')
            else:
                working.add(name)
                print(result)
    pip_check = [sys.executable, '-m', 'pip', 'check']
    done = subprocess.run(pip_check, capture_output=True, text=True)
    print(f'{"pip check":13}{(done.stdout + done.stderr).strip()}\n')
    print('Problems:' if problems else 'Nothing is wrong.', *problems, sep='\n- ')
    if not any(found[name] for name in OPENMMLAB):
        print(f'\nra_mm works without the packages of OpenMMLab. {INSTALL}.')
    return bool(problems)


def find_distributions() -> dict[str, dict[str, str]]:
    """Return the distributions that provide each package, and their versions."""
    providers = metadata.packages_distributions()
    names = {name: sorted({*providers.get(name, ())}) for name in PACKAGES}
    return {name: {d: metadata.version(d) for d in ds} for name, ds in names.items()}


def check_distributions(found: dict[str, dict[str, str]]) -> list[str]:
    """List packages that are missing, installed twice, or not made for each other."""
    used = {name: [*found[name]] for name in OPENMMLAB if found[name]}
    needed = [n for n in PACKAGES if n not in OPTIONAL] if used else ['torch']
    missing = [name for name in needed if find_spec(name) is None]
    problems = [f'{name} is not installed. {INSTALL}' for name in missing]
    twice = {name: names for name, names in used.items() if len(names) > 1}
    for name, names in twice.items():
        advice = f'pip uninstall {" ".join(names)}, then install one of them'
        problems.append(f'{name} is installed twice, by {names}: {advice}')
    forks = {name for name, names in used.items() if names[-1].startswith('onedl-')}
    if forks and forks < set(used) and not twice:
        both = f'{", ".join(forks)} of the fork (onedl-*) and the original'
        others = ', '.join(set(used) - forks)
        problems.append(f'{both} {others} are not made for each other. {INSTALL}')
    return problems


def try_package(name: str, working: set[str]) -> str:
    """Import a package, use it, and return what to add to its line."""
    module = import_module(name)
    if name == 'torch':
        if 'numpy' in working:
            module.zeros(1).numpy()
        gpus = map(module.cuda.get_device_name, range(module.cuda.device_count()))
        return f', CUDA {module.version.cuda}, {", ".join(gpus) or "no GPU"}'
    if name == 'torchvision':
        _check_nms(import_module('torchvision.ops').nms, 'cpu')
    elif name == 'mmcv':
        nms = import_module('mmcv.ops').nms
        devices = ['cpu', 'cuda'][: 1 + import_module('torch').cuda.is_available()]
        for device in devices:
            _check_nms(lambda *args: nms(*args)[1], device)
        stands_in = import_module('ra_mm.mmcv_ops.stand_in').is_in_use()
        whose = "torchvision's operators (a stand-in)" if stands_in else 'operators'
        return f', {whose} run on {" and ".join(devices)}'
    elif name in OPENMMLAB:
        import_module('mmengine.runner' if name == 'mmengine' else f'{name}.apis')
    elif name == 'ra_mm':
        import_module('ra_mm.backbones' if 'mmpretrain' in working else 'ra_mm.layers')
        return f', {os.path.dirname(str(module.__file__))}'
    return ''


def _check_nms(nms, device):
    """Try two boxes that overlap by 3/4, the second with the higher score."""
    tensor = import_module('torch').tensor
    boxes = tensor([[0.0, 0.0, 4.0, 3.0], [0.0, 0.0, 4.0, 4.0]], device=device)
    kept = nms(boxes, tensor([0.1, 0.9], device=device), 0.5).tolist()
    if kept != [1]:
        raise RuntimeError(f'nms on {device} keeps the boxes {kept}, not [1]')


if __name__ == '__main__':
    sys.exit(main())
