"""The wheel that `pip install .` builds, and the installation that the tests run in."""

import os
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

import ra_mm

PACKAGE = Path(ra_mm.__file__).parent


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    """The unpacked wheel, built from a copy that has neither build/ nor egg-info."""
    folder = tmp_path_factory.mktemp('wheel')
    for name in ('pyproject.toml', 'setup.py', 'README.md', 'LICENSE'):
        shutil.copy(PACKAGE.parent / name, folder)
    shutil.copytree(
        PACKAGE, folder / 'ra_mm', ignore=shutil.ignore_patterns('__pycache__')
    )
    subprocess.run(
        [sys.executable, '-m', 'pip', 'wheel', folder, '--wheel-dir', folder]
        + ['--no-deps', '--no-index', '--no-build-isolation'],
        check=True,
        capture_output=True,
    )
    (path,) = folder.glob(f'ra_mm-{ra_mm.__version__}-*.whl')
    zipfile.ZipFile(path).extractall(folder / 'unpacked')
    return folder / 'unpacked'


def test_wheel_has_all_of_the_package(wheel):
    def files(package):
        return {
            path.relative_to(package)
            for path in package.rglob('*')
            if path.is_file() and path.suffix != '.pyc'
        }

    assert files(wheel / 'ra_mm') >= files(PACKAGE)
    assert Path('py.typed') in files(wheel / 'ra_mm')


def test_wheel_can_be_imported(wheel):
    done = subprocess.run(
        [sys.executable, '-c', 'import ra_mm.layers; print(ra_mm.layers.__file__)'],
        check=True,
        capture_output=True,
        text=True,
        cwd=wheel,
        env={**os.environ, 'PYTHONPATH': str(wheel)},
    )
    assert Path(done.stdout.strip()) == wheel / 'ra_mm/layers/__init__.py'


def test_check_env():
    done = subprocess.run(
        [sys.executable, '-m', 'ra_mm.check_env'], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
    assert f'torch        {metadata.version("torch")}' in done.stdout
