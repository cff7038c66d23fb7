"""ledger.json: what was asked for, what has been run, and how it went."""

import json
from pathlib import Path

from ra_mm.fileio import atomic_write
from ra_mm.reproduce import paper

VERSION = 1


class Ledger:
    """The record of a reproduction, always whole on the disk.

    Args:
        folder (Path): Where ``ledger.json`` is, or will be.

    Raises:
        ValueError: If it is there and not a ledger of this version.
    """

    def __init__(self, folder: Path) -> None:
        self.path = Path(folder) / 'ledger.json'
        self.content = dict(
            version=VERSION, scale=None, data=None, seeds=0, rows=[], runs={}
        )
        if self.path.exists():
            self.content = self._read()

    def _read(self):
        remedy = 'choose another folder with --out, or delete this one'
        try:
            content = json.loads(self.path.read_text(encoding='utf-8'))
            version = content['version']
        except (ValueError, KeyError, TypeError) as e:
            raise ValueError(
                f'{self.path} is no ledger of a reproduction '
                f'({type(e).__name__}: {e}): {remedy}'
            ) from e
        if version != VERSION:
            raise ValueError(
                f'{self.path} is of version {version!r}, this tool reads and '
                f'writes version {VERSION}: {remedy}'
            )
        return content

    @property
    def runs(self) -> dict[str, dict]:
        return self.content['runs']

    def check(self, scale: str, data: str | None) -> None:
        """Refuse to mix scales or datasets in one ledger.

        Raises:
            ValueError: If the ledger is of another scale or dataset.
        """
        for key, value in (('scale', scale), ('data', data)):
            if self.content['scale'] and self.content[key] != value:
                raise ValueError(
                    f'{self.path} is of --{key} {self.content[key]}, asked '
                    f'for is {value}: choose another folder with --out'
                )

    def add(
        self,
        scale: str,
        data: str | None,
        seeds: int,
        rows: list[dict],
        runs: dict[str, dict],
    ) -> None:
        """Add what is asked for now to what was before."""
        content = self.content
        content.update(scale=scale, data=data, seeds=max(seeds, content['seeds']))
        for run_id, run in runs.items():
            self.runs.setdefault(run_id, run)
        there = {_key(row): row for row in content['rows']}
        for row in rows:
            before = there.setdefault(_key(row), row)
            before['runs'] = sorted({*before['runs'], *row['runs']}, key=_seed)
        order = [(row.table, row.group, row.name) for row in paper.rows()]
        content['rows'] = sorted(there.values(), key=lambda row: order.index(_key(row)))

    def save(self) -> None:
        """Write it, whole or not at all.

        Raises:
            OSError: If it cannot be written; the one before stays.
        """
        try:
            with atomic_write(self.path) as file:
                json.dump(self.content, file, indent=1, allow_nan=False)
        except OSError as e:
            raise OSError(
                f'{self.path} cannot be written: {e.strerror}. As it was '
                'before, it is whole; the same command goes on from '
                'there'
            ) from e


def _key(row):
    return row['table'], row['group'], row['name']


def _seed(run_id):
    return int(run_id.rsplit('-seed', 1)[1])
