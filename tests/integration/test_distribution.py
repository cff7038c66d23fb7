"""The archives that are published have what users and packagers need."""

import re
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from importlib import metadata
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]


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


def test_metadata(archives):
    command = [sys.executable, '-m', 'twine', 'check', '--strict', *archives]
    subprocess.run(command, check=True)


def test_source_archive_is_complete(archives):
    """It has all that a clone has, but for the settings of services."""
    source = archives[0].parent / 'source'
    paths = [p.relative_to(source) for p in source.rglob('*') if p.is_file()]
    with tarfile.open(archives[0]) as archive:
        names = {name.partition('/')[2] for name in archive.getnames()}
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
