import pytest

from ra_mm.errors import UserError
from ra_mm.reproduce import paper


def test_configs_of_an_installed_package_come_first(tmp_path, monkeypatch):
    module = tmp_path / 'ra_mm/reproduce/paper.py'
    monkeypatch.setattr(paper, '__file__', str(module))
    assert paper.find_configs() == tmp_path / 'configs'
    packaged = tmp_path / 'ra_mm/.mim/configs'
    packaged.mkdir(parents=True)
    assert paper.find_configs() == packaged


def test_without_configs(tmp_path, monkeypatch):
    monkeypatch.setattr(paper, 'CONFIGS', tmp_path)
    with pytest.raises(UserError, match=str(tmp_path)):
        paper.rows()


def test_rows_of_tables():
    assert {row.table for row in paper.rows()} == set(range(2, 11))
    assert {row.table for row in paper.rows(4, 9)} == {4, 9}
    with pytest.raises(UserError, match='table 1'):
        paper.rows(1)
