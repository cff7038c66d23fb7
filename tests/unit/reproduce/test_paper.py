import pytest

from ra_mm.errors import UserError
from ra_mm.reproduce import paper


def test_without_configs(tmp_path, monkeypatch):
    monkeypatch.setattr(paper, 'CONFIGS', tmp_path)
    with pytest.raises(UserError, match=str(tmp_path)):
        paper.rows()


def test_rows_of_tables():
    assert {row.table for row in paper.rows()} == set(range(2, 11))
    assert {row.table for row in paper.rows(4, 9)} == {4, 9}
    with pytest.raises(UserError, match='table 1'):
        paper.rows(1)
