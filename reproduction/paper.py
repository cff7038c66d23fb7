"""Read the rows of the paper's tables, and of those beyond it, with their configs."""

from dataclasses import dataclass, field
from decimal import Decimal
from functools import lru_cache
from pathlib import Path

import yaml

from ra_mm.errors import UserError

CONFIGS = Path(__file__).absolute().parents[1] / 'configs'


@dataclass(frozen=True)
class Row:
    """A row of a table, see ``configs/paper.yml`` and ``configs/beyond.yml``.

    Attributes:
        table: Number of the table in the paper, 2 to 10; or the name of a
            table that is not in the paper.
        group: Rows of a group are compared with the first of them.
        name: As printed; unique in its group.
        config: Config that trains the row.
        start: Config that trains the weights the row starts from.
        paper: The paper's numbers by metric, with the digits it prints.
        misprints: By metric, what is wrong with the printed number.
        variant: What is changed in the config, see :mod:`.finetune`.
    """

    table: int | str
    group: str
    name: str
    config: Path
    paper: dict[str, Decimal]
    start: Path | None = None
    misprints: dict[str, str] = field(default_factory=dict)
    variant: str = ''

    def __str__(self) -> str:
        table = self.table if self.is_beyond else f'Table {self.table}'
        return f'{table}, {self.group}, {self.name}'

    @property
    def is_beyond(self) -> bool:
        """Whether the paper does not have this row."""
        return isinstance(self.table, str)


def rows(*tables: int) -> list[Row]:
    """The rows of the given tables, or of all tables, in the paper's order."""
    own = [row for row in all_rows() if not row.is_beyond]
    return [row for row in own if not tables or row.table in tables]


def all_rows() -> list[Row]:
    """The rows of the paper, then those beyond it."""
    files = _load('paper.yml'), _load('beyond.yml')
    return [_make_row(**row) for file in files for row in file['rows']]


@lru_cache
def baseline_names() -> dict[tuple[int | str, str], str]:
    """The name of the first row of each group, by table and group."""
    return {(row.table, row.group): row.name for row in all_rows()[::-1]}


def _make_row(table, config, start=None, paper=None, **others):
    return Row(
        table=int(table) if table.isdigit() else table,
        config=CONFIGS / config,
        start=CONFIGS / start if start else None,
        paper={k: Decimal(v) for k, v in (paper or {}).items()},
        **others,
    )


def metrics() -> dict[str, str]:
    """The column headings, with units, by metric."""
    return _load('paper.yml')['metrics']


def logged_metrics() -> dict[str, dict[str, str]]:
    """The metrics by their names in the logs of each toolbox, the main one first."""
    return _load('paper.yml')['logged']


def titles() -> dict[str, str]:
    """What each table is about, by its number or name."""
    return _load('paper.yml')['titles'] | _load('beyond.yml')['titles']


@lru_cache
def _load(name):
    path = CONFIGS / name
    if not path.is_file():
        text = f'{path}: no such file. The configs come with ra_mm, whether it is'
        raise UserError(
            f'{text} installed from a wheel or from a clone: install it again'
        )
    # BaseLoader keeps numbers as the text that is printed.
    return yaml.load(path.read_text(encoding='utf-8'), yaml.BaseLoader)
