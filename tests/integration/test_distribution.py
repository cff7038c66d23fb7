"""The archives that are published, and what an installation of the wheel can do."""

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from importlib import metadata
from pathlib import Path

import pytest

import ra_mm

REPO = Path(__file__).parents[2]
FOR_MIM = ('configs', 'reproduction', 'tools', 'model-index.yml')


def files(folder):
    return {path.relative_to(folder) for path in folder.rglob('*') if path.is_file()}


@pytest.fixture(scope='module')
def archives(tmp_path_factory):
    """The source archive of the tracked files, and a wheel that is built from it."""
    if int(metadata.version('setuptools').split('.')[0]) < 77:
        pytest.skip('building needs setuptools 77, and openmim installs 60')
    folder = tmp_path_factory.mktemp('archives')
    source = folder / 'source'
    tracked = subprocess.run(
        ['git', 'ls-files', '-z'], cwd=REPO, capture_output=True, text=True
    )
    if tracked.returncode:
        pytest.skip('not a clone')
    for name in filter(None, tracked.stdout.split('\0')):
        if (REPO / name).is_file():  # not deleted in the working tree
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((REPO / name).read_bytes())
    subprocess.run(
        [sys.executable, '-m', 'build', '--no-isolation', '--outdir', folder, source],
        check=True,
        cwd=folder,
    )
    return [path for kind in ('*.tar.gz', '*.whl') for path in folder.glob(kind)]


@pytest.fixture(scope='module')
def source(archives):
    """The tracked files, as a clone has them."""
    return archives[0].parent / 'source'


@pytest.fixture(scope='module')
def wheel(archives, tmp_path_factory):
    """The unpacked wheel, as `pip install` would unpack it."""
    folder = tmp_path_factory.mktemp('wheel')
    zipfile.ZipFile(archives[1]).extractall(folder)
    return folder


def test_metadata(archives):
    command = [sys.executable, '-m', 'twine', 'check', '--strict', *archives]
    subprocess.run(command, check=True)


def test_source_archive_is_complete(archives, source):
    """It has all that a clone has, but for the settings of services."""
    with tarfile.open(archives[0]) as archive:
        names = {name.partition('/')[2] for name in archive.getnames()}
    paths = files(source)
    assert {str(path) for path in paths if path.parts[0][0] != '.'} <= names


def test_links_of_the_long_description(archives):
    """They lead to files of the repository, from any place."""
    with zipfile.ZipFile(archives[1]) as wheel:
        (name,) = (n for n in wheel.namelist() if n.endswith('.dist-info/METADATA'))
        headers = message_from_bytes(wheel.read(name))
    urls = dict(line.split(', ', 1) for line in headers.get_all('Project-URL'))
    links = re.findall(r'(!?)\[[^\]]*\]\(([^)\s]+)\)', headers.get_payload())
    own = [(kind, url) for kind, url in links if url.startswith(urls['Repository'])]
    assert any(kind for kind, _ in own) and all(url[:4] == 'http' for _, url in links)
    for kind, url in own:
        folder = f'{urls["Repository"]}/{"raw" if kind else "blob"}/'
        assert url.startswith(folder + f'v{headers["Version"]}/'), url
        path = url.removeprefix(folder).partition('/')[2].partition('#')[0]
        assert (REPO / path).is_file(), url


def run_in_wheel(wheel, tmp_path, *args):
    done = subprocess.run(
        [sys.executable, *args],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, 'PYTHONPATH': str(wheel)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_wheel_has_all_of_the_package(wheel, source):
    assert files(wheel / 'ra_mm') >= files(source / 'ra_mm')
    assert Path('py.typed') in files(wheel / 'ra_mm')


@pytest.mark.parametrize(
    'folder', ['ra_mm/.mim', f'ra_mm-{ra_mm.__version__}.dist-info/.mim']
)
def test_wheel_has_what_mim_needs(wheel, source, folder):
    """In the package, and where onedl-mim looks for it, see setup.py."""
    assert {path.name for path in (wheel / folder).iterdir()} == {*FOR_MIM}
    for name in ('configs', 'reproduction', 'tools'):
        expected = files(source / name) - {Path('benchmark.py')}  # needs a clone
        assert files(wheel / folder / name) == expected
    assert not (wheel / 'benchmarks').exists()


def test_rows_of_the_paper_are_found_in_the_wheel(wheel, tmp_path):
    mim = wheel / 'ra_mm/.mim'
    command = mim / 'tools/reproduce.py', 'table9', '--scale', 'demo', '--dry-run'
    out = run_in_wheel(wheel, tmp_path, *command)
    assert f'{mim}/tools/train.py' in out


def test_model_of_a_config_in_the_wheel(wheel, tmp_path):
    mim = wheel / 'ra_mm/.mim'
    config = mim / 'configs/imagenet/ra_r18.py'
    out = run_in_wheel(wheel, tmp_path, mim / 'tools/get_flops.py', config)
    assert float(re.search(r'^model +([\d.]+)', out, re.M)[1]) == 11.691


def test_check_env():
    done = subprocess.run(
        [sys.executable, '-m', 'ra_mm.check_env'], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
    assert f'torch        {metadata.version("torch")}' in done.stdout
