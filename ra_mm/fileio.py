"""Write files atomically, and find out early whether a folder is writable."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from ra_mm.errors import UserError


@contextmanager
def atomic_write(path: str | Path, mode: str = 'w') -> Iterator[IO]:
    """Write to a temporary file, then rename it to ``path``.

    If anything goes wrong before the rename (an exception in the block, a full
    disk, a kill), an existing file at ``path`` stays as it was.

    Args:
        path (str | Path): The file. Missing parent folders are created.
        mode (str): 'w' for UTF-8 text or 'wb'. Defaults to 'w'.

    Yields:
        IO: The open temporary file.

    Raises:
        OSError: If the file cannot be written.
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
    """Check that files can be written to a folder, without creating it.

    Called before long work whose results go there.

    Args:
        option (str): The command line option that names the folder.
        folder (str | Path): The folder. It may not exist yet.

    Raises:
        UserError: If the folder is not writable or cannot be created.
    """
    folder = Path(folder).absolute()
    try:
        existing = next(p for p in (folder, *folder.parents) if p.exists())
        tempfile.TemporaryFile(dir=existing).close()
    except OSError as e:
        text = f'{option}: cannot write to {folder} ({e.strerror})'
        raise UserError(f'{text}; name another folder') from e
