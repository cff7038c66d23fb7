"""Install the pinned packages and ra_mm; called by ``make install``.

    python requirements/install.py VENV onedl|openmmlab torchvision|compiled

The environment VENV is created, or made anew if it does not work. An interrupted
installation is continued by the same command. Only the standard library is imported.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path
from urllib.request import urlopen

PINS = Path('requirements')
CPU_INDEX = 'https://download.pytorch.org/whl/cpu'
LAST_PYTHON = {'onedl': 13, 'openmmlab': 11}  # the last 3.x
# mmcv-lite is mmcv without operators.
NAMES = {
    'onedl': 'onedl-mmengine onedl-mmcv onedl-mmdetection onedl-mmsegmentation '
    'onedl-mmpretrain',
    'openmmlab': 'mmengine mmengine-lite mmcv mmcv-lite mmcv-full mmdet '
    'mmsegmentation mmpretrain',
}


def main(folder: str, stack: str, ops: str) -> None:
    if Path(sys.prefix).resolve() != Path(folder).resolve():
        python = Path(folder, 'bin/python').absolute()
        if not works(python):
            check_python(stack)
            # Cleared only if it is an environment, and not a folder of something else.
            clear = ['--clear'] if Path(folder, 'pyvenv.cfg').exists() else []
            run(sys.executable, '-m', 'venv', *clear, folder)
        run(python, __file__, folder, stack, ops)  # again, in the environment
        return
    check_python(stack)
    check_other_stack(stack)
    # torch comes first because the setup.py of other packages imports it.
    build, pins = PINS / 'build.txt', PINS / f'{stack}.txt'
    pip('-r', build, '-c', pins, *torch_index(), 'torch', 'torchvision')
    lines = pins.read_text().splitlines()
    is_mmcv = re.compile('(onedl-)?mmcv').match
    (mmcv,) = (line.split()[0] for line in lines if is_mmcv(line))
    install_mmcv(mmcv, ops)
    rest = Path(folder, 'requirements.txt')
    rest.write_text('\n'.join(line for line in lines if not is_mmcv(line)))
    pip('--no-build-isolation', '-r', rest, '-e', '.[lint,tests]')
    if not compiled_operators():
        run(sys.executable, '-m', 'ra_mm.mmcv_ops', 'install')


def torch_index() -> list[str]:
    """With TORCH=cpu, pip's options for PyTorch without CUDA, if that can be had.

    pip prefers 2.10.0+cpu of this index to 2.10.0 of PyPI.
    """
    if os.environ.get('TORCH') != 'cpu':
        return []
    try:
        urlopen(f'{CPU_INDEX}/torch', timeout=10).close()
    except OSError as e:
        print(f'TORCH=cpu: {CPU_INDEX}: {e}. The build with CUDA is installed instead.')
        return []
    return ['--extra-index-url', CPU_INDEX]


def works(python: Path) -> bool:
    """Tell a working environment from one that is missing, interrupted or broken."""
    try:
        return not subprocess.run(
            [python, '-m', 'pip', '--version'], capture_output=True
        ).returncode
    except OSError:  # for example, of a Python that was removed
        return False


def check_python(stack: str) -> None:
    last = LAST_PYTHON[stack]
    if not (3, 10) <= sys.version_info[:2] <= (3, last):
        sys.exit(
            f'{sys.executable} is Python {sys.version.split()[0]}, but STACK={stack} '
            f'needs 3.10 to 3.{last}: try `make clean`, then `make PYTHON=python3.11`, '
            'both with your other options'
        )


def check_other_stack(stack: str) -> None:
    """Refuse an environment with the other set, which has the same import names."""
    others = ' '.join(names for s, names in NAMES.items() if s != stack).split()
    names = {str(d.metadata['Name']).lower() for d in metadata.distributions()}
    names = {name.replace('_', '-') for name in names}
    if found := sorted(names.intersection(others)):
        sys.exit(
            f'{sys.prefix} holds {", ".join(found)}, whose files those of '
            f'STACK={stack} would overwrite; nothing was installed. Remove them, run '
            '`make clean`, or choose another environment: '
            f'`make STACK={stack} VENV=.venv-{stack}`'
        )


def install_mmcv(pin: str, ops: str) -> None:
    """Install mmcv without its operators, or with compiled ones.

    Compiled operators that work stay in both cases.
    """
    if is_compiled():
        print('mmcv has compiled operators, which stay.')
    elif ops == 'torchvision':
        # Build isolation hides torch from the build, and mmcv then leaves out its
        # operators. A cache may hold an mmcv that was compiled for another torch.
        fork = ['--no-cache-dir', '--no-binary', 'onedl-mmcv']
        again = ['--force-reinstall'] if compiled_operators() else []
        pip('--no-deps', *(fork if pin.startswith('onedl') else []), *again, pin)
    else:
        install_compiled(pin)


def install_compiled(pin: str) -> None:
    """Install a wheel if there is one for this Python, torch and CUDA; else compile."""
    import torch

    cuda = torch.version.cuda
    device = f'cu{cuda.replace(".", "")}' if cuda else 'cpu'
    version = torch.__version__.split('+')[0]
    if pin.startswith('onedl'):
        name = f'{device}-torch{version.replace(".", "")}'
        page = f'https://mmwheels.onedl.ai/{name}/simple/onedl-mmcv/index.html'
    else:
        name = f'{device}/torch{version.rpartition(".")[0]}.0'
        page = f'https://download.openmmlab.com/mmcv/dist/{name}/index.html'
        pin = pin.replace('mmcv-lite', 'mmcv')
        pip('mmcv-lite', command=('uninstall', '--yes'))
    options = ['--no-deps', '--force-reinstall']
    quickly = ['--retries', '1', '--timeout', '20']
    wheel = ['--only-binary', ':all:', '--find-links', page]
    if pip(*options, *quickly, *wheel, pin, check=False) and is_compiled():
        return
    print(f'There is no wheel of {pin} for {name} and this Python.')
    set_compilation(torch.cuda.is_available())
    options += ['--no-build-isolation']
    pip(*options, pin)
    if not is_compiled():  # the cache held one without operators, or for another torch
        pip(*options, '--no-cache-dir', '--no-binary', pin.split('==')[0], pin)


def set_compilation(has_gpu: bool) -> None:
    """Say what mmcv's setup.py compiles for, and keep it from failing without nvcc.

    It compiles for CUDA if a GPU is visible or FORCE_CUDA is 1.
    """
    nvcc = Path(os.environ.get('CUDA_HOME', '/usr/local/cuda'), 'bin/nvcc')
    if not has_gpu and os.environ.get('FORCE_CUDA') != '1':
        print('PyTorch finds no GPU: the operators are compiled for the CPU only. With')
        print('FORCE_CUDA=1 in the environment, and nvcc, also for CUDA.')
    elif shutil.which('nvcc') or nvcc.exists():
        print('nvcc was found: the operators are compiled for the CPU and for CUDA.')
    else:
        print('nvcc was not found: the operators are compiled for the CPU only. For a')
        print('GPU, use OPS=torchvision, or a wheel: docs/install.md lists them.')
        os.environ.update(FORCE_CUDA='0', CUDA_VISIBLE_DEVICES='')
    print('Compiling takes about 30 minutes of CPU time. Ctrl-C stops it.', flush=True)


def compiled_operators() -> list:
    """List mmcv's compiled operator modules, without importing mmcv."""
    return sorted(Path(sysconfig.get_path('purelib'), 'mmcv').glob('_ext*.so'))


def is_compiled() -> bool:
    """Tell whether mmcv has compiled operators that work with the installed torch.

    They are loaded without mmcv, which needs packages that are installed later.
    """
    code = (
        'import sys, torch; from importlib.util import *; '
        'module_from_spec(spec_from_file_location("mmcv._ext", sys.argv[1]))'
    )
    return any(
        run(sys.executable, '-c', code, path, check=False)
        for path in compiled_operators()
    )


def pip(*args, command=('install',), check=True) -> bool:
    return run(sys.executable, '-m', 'pip', *command, *args, check=check)


def run(*command, check=True) -> bool:
    """Run a command; tell whether it succeeded, or exit with its status."""
    status = subprocess.run([*map(str, command)]).returncode
    if status and check:
        sys.exit(status)
    return not status


if __name__ == '__main__':
    main(*sys.argv[1:])
