"""configs/paper.yml: the rows of the paper's tables and their configs."""

from decimal import Decimal

from reproduction import paper


def test_rows():
    rows, metrics = paper.rows(), paper.metrics()
    assert len(set(map(str, rows))) == len(rows)
    assert {row.table for row in rows} == set(range(2, 11))
    for row in rows:
        assert row.config.is_file(), row
        assert row.paper.keys() <= metrics.keys(), row
        assert row.misprints.keys() <= row.paper.keys(), row
        assert bool(row.start) == (row.table in (4, 5)), row
        if row.start:
            assert row.start.parent.name == 'imagenet'
            assert row.start.is_file()
    assert paper.rows(3, 2) == paper.rows(2, 3)
    assert paper.rows(2)[6].paper['flops'] == Decimal('4.140')
    assert str(paper.rows(2)[6].paper['flops']) == '4.140'


def test_same_accuracy_of_the_same_config():
    """The paper prints some results more than once."""
    seen = {}
    for row in paper.rows():
        for metric in ('top1', 'top5'):
            if metric in row.paper:
                seen.setdefault((row.config, metric), set()).add(row.paper[metric])
    assert all(len(values) == 1 for values in seen.values())


def test_every_config_is_in_the_list():
    files = {
        str(path.relative_to(paper.CONFIGS)) for path in paper.CONFIGS.rglob('*.py')
    }
    listed = {str(row.config.relative_to(paper.CONFIGS)) for row in paper.all_rows()}
    others = [f for f in files - listed if not f.startswith(('_base_/', 'demo/'))]
    assert others == ['faster_rcnn_ra_r50_bccd.py']  # the user's own data
