"""The ledger of a reproduction: requested rows, runs, and their results."""

import json
from pathlib import Path

from ra_mm.errors import UserError
from ra_mm.fileio import atomic_write
from ra_mm.reproduce import paper

VERSION = 1


class Ledger:
    """The content of ``ledger.json``, which is only written atomically.

    Args:
        folder: Folder of ``ledger.json``, which need not exist.

    Raises:
        UserError: If the file exists and is not a ledger of this version.
    """

    def __init__(self, folder: Path) -> None:
        self.path = Path(folder) / 'ledger.json'
        self.content = dict(
            version=VERSION,
            scale=None,
            data=None,
            options={},
            seeds=0,
            rows=[],
            runs={},
        )
        if self.path.exists():
            self.content = self._read()

    def _read(self):
        remedy = 'choose another folder with --out, or delete this file'
        try:
            content = json.loads(self.path.read_text(encoding='utf-8'))
            version = content['version']
        except (ValueError, KeyError, TypeError) as e:
            raise UserError(
                f'{self.path} is not the ledger of a reproduction '
                f'({type(e).__name__}: {e}): {remedy}'
            ) from e
        if version != VERSION:
            raise UserError(
                f'{self.path} has version {version!r}, this tool reads and '
                f'writes version {VERSION}: {remedy}'
            )
        return content

    @property
    def runs(self) -> dict[str, dict]:
        return self.content['runs']

    def check(self, scale: str, data: str | None, options: dict) -> None:
        """Refuse to mix scales, datasets or changed configs in one ledger.

        Raises:
            UserError: If the ledger has another scale, dataset or other options.
        """
        if not self.content['scale']:
            return
        found = dict(self.content, options=self.content.get('options', {}))
        for key, flag, value in (
            ('scale', '--scale', scale),
            ('data', '--data', data),
            ('options', '--cfg-options', json.loads(json.dumps(options))),
        ):
            if found[key] != value:
                raise UserError(
                    f'{self.path} was made with {flag} {found[key]}, not {value}: '
                    'choose another folder with --out'
                )

    def add(
        self,
        scale: str,
        data: str | None,
        options: dict,
        seeds: int,
        rows: list[dict],
        runs: dict[str, dict],
    ) -> None:
        """Add rows and runs to those of earlier commands."""
        content = self.content
        content.update(
            scale=scale, data=data, options=options, seeds=max(seeds, content['seeds'])
        )
        for run_id, run in runs.items():
            self.runs.setdefault(run_id, run)
        by_key = {_row_key(row): row for row in content['rows']}
        for row in rows:
            known = by_key.setdefault(_row_key(row), row)
            known['runs'] = sorted({*known['runs'], *row['runs']}, key=_seed)
        known = [*paper.rows(), *paper.beyond_rows()]
        order = [(row.table, row.group, row.name) for row in known]
        content['rows'] = sorted(
            by_key.values(), key=lambda row: order.index(_row_key(row))
        )

    def save(self) -> None:
        """Write the ledger atomically.

        Raises:
            UserError: If it cannot be written; the previous file stays.
        """
        try:
            with atomic_write(self.path) as file:
                json.dump(self.content, file, indent=1, allow_nan=False)
        except OSError as e:
            raise UserError(
                f'{self.path} cannot be written: {e.strerror}. The previous version '
                'is intact, and the same command continues from it'
            ) from e


def _row_key(row):
    return row['table'], row['group'], row['name']


def _seed(run_id):
    return int(run_id.rsplit('-seed', 1)[1])
