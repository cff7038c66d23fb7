"""Files that are there whole or not at all."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from ra_mm.errors import UserError


@contextmanager
def atomic_write(path: str | Path, mode: str = 'w') -> Iterator[IO]:
    """Open a file that takes the place of another once it is complete.

    Args:
        path (str | Path): Its name; folders are made where there are none.
        mode (str): 'w' for text in UTF-8, or 'wb'. Defaults to 'w'.

    Yields:
        IO: The open file. Whatever goes wrong until it is closed, a full disk
        included, leaves what was there before.

    Raises:
        OSError: If it cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f'.{path.name}.part')
    try:
        with open(part, mode, encoding=None if 'b' in mode else 'utf-8') as f:
            yield f
            f.flush()
            os.fsync(f.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def check_writable(option: str, folder: str | Path) -> None:
    """Refuse, before long work, a folder that will not take its results.

    Args:
        option (str): Where the user names the folder, for the message.
        folder (str | Path): It need not exist, and is not made.

    Raises:
        UserError: If nothing can be written there, or it cannot be made.
    """
    folder = Path(folder).absolute()
    try:
        there = next(p for p in (folder, *folder.parents) if p.exists())
        tempfile.TemporaryFile(dir=there).close()
    except OSError as e:
        raise UserError(
            f'{option}: nothing can be written to {folder} '
            f'({e.strerror}), name another folder'
        ) from e
