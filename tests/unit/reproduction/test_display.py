from reproduction.display import seconds_left
from reproduction.ledger import Entry, format_duration


def test_format_duration():
    texts = [format_duration(seconds) for seconds in (12.4, 186, 7560)]
    assert texts == ['12 s', '3.1 min', '2.1 h']


def test_seconds_left():
    states = [
        ('done', 1, 100),
        ('failed', 0, 30),
        ('running', 0.5, 50),
        ('waiting', 0, 0),
    ]
    entries = [
        Entry('configs/some.py', 0, status=status, progress=progress, wall_s=wall_s)
        for status, progress, wall_s in states
    ]
    # 1.5 runs took 150 s, and 1.5 are left.
    assert seconds_left(entries) == 150
    # 2 runs took 200 s, and 2 are left, which run side by side.
    assert seconds_left([*entries, entries[2]]) == 100
    assert seconds_left(entries[3:]) is None
