"""The rows of the paper's tables, with the configs that train them."""

from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

import yaml

CONFIGS = Path(__file__).parents[2] / 'configs'


@dataclass(frozen=True)
class Row:
    """A row of a table, see ``configs/paper.yml``.

    Attributes:
        table (int): Number of the table, 2 to 10.
        group (str): Rows of a group are compared with its first.
        name (str): As printed, unique in its group.
        config (Path): Config that trains it.
        start (Path, optional): Config that trains what it starts from.
        paper (dict[str, Decimal]): The paper's numbers by metric, with the
            digits that it prints.
        misprints (dict[str, str]): What is wrong with some of them.
    """

    table: int
    group: str
    name: str
    config: Path
    paper: dict[str, Decimal]
    start: Path | None = None
    misprints: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f'Table {self.table}, {self.group}, {self.name}'


def rows(*tables: int) -> list[Row]:
    """The rows of the given tables, or of all, in the paper's order.

    Args:
        *tables (int): Numbers of tables.

    Raises:
        FileNotFoundError: If ra_mm is not used from its checkout, which has
            the configs.
        ValueError: If there is no such table.
    """
    all_rows = [
        Row(
            table=int(row.pop('table')),
            config=CONFIGS / row.pop('config'),
            start=CONFIGS / row.pop('start') if 'start' in row else None,
            paper={k: Decimal(v) for k, v in row.pop('paper').items()},
            **row,
        )
        for row in _load()['rows']
    ]
    known = sorted({row.table for row in all_rows})
    for table in tables:
        if table not in known:
            raise ValueError(
                f'table {table}: the tables with results are '
                f'{", ".join(map(str, known))}'
            )
    return [row for row in all_rows if not tables or row.table in tables]


def metrics() -> dict[str, str]:
    """The headings of the numbers, with their units, by metric."""
    return _load()['metrics']


def _load():
    path = CONFIGS / 'paper.yml'
    if not path.is_file():
        raise FileNotFoundError(
            f'{path}: there is no such file. The configs are in the checkout '
            'of ra_mm: install it with `pip install -e .`'
        )
    # BaseLoader leaves numbers as they are written.
    return yaml.load(path.read_text(encoding='utf-8'), yaml.BaseLoader)
