"""atomic_write leaves the complete old or new file, whatever happens."""

import errno
import os

import pytest

from ra_mm.errors import UserError
from ra_mm.fileio import atomic_write, check_writable


def test_write_and_replace(tmp_path):
    path = tmp_path / 'new folder' / 'ä.txt'
    with atomic_write(path) as file:
        file.write('first ä')
        assert not path.exists()
    assert path.read_text(encoding='utf-8') == 'first ä'
    with atomic_write(path, 'wb') as file:
        file.write(b'second')
    assert path.read_bytes() == b'second'
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize('name', ['fsync', 'replace'])
def test_full_disk(name, tmp_path, monkeypatch):
    path = tmp_path / 'file'
    path.write_text('old')

    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, name, full)
    with pytest.raises(OSError, match='No space left'):
        with atomic_write(path) as file:
            file.write('new')
    assert path.read_text() == 'old'
    assert list(tmp_path.iterdir()) == [path]


def test_exception_in_the_block(tmp_path):
    path = tmp_path / 'file'
    path.write_text('old')
    with pytest.raises(KeyboardInterrupt):
        with atomic_write(path) as file:
            file.write('half')
            raise KeyboardInterrupt
    assert path.read_text() == 'old'
    assert list(tmp_path.iterdir()) == [path]


def test_check_writable(tmp_path):
    check_writable('--out', tmp_path / 'a/b')
    assert not list(tmp_path.iterdir())  # nothing is created
    (tmp_path / 'file').touch()
    for folder in ('file', 'file/a/b'):
        with pytest.raises(UserError, match='--out: .*Not a directory'):
            check_writable('--out', tmp_path / folder)
