from reproduction.display import seconds_left
from reproduction.ledger import Entry, format_duration


def test_format_duration():
    texts = [format_duration(seconds) for seconds in (12.4, 186, 7560)]
    assert texts == ['12 s', '3.1 min', '2.1 h']


def test_seconds_left():
    seconds = dict(done=100.0, failed=30.0, running=50.0, waiting=0.0)
    entries = [
        Entry('configs/some.py', 0, status=status, wall_s=wall_s)
        for status, wall_s in seconds.items()
    ]
    # 1.5 runs took 150 s, and 1.5 are left.
    assert seconds_left(entries, 0.5) == 150
    assert seconds_left(entries[1:], 0.0) is None
