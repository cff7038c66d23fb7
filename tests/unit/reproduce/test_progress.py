from ra_mm.reproduce.progress import format_duration, seconds_left


def test_format_duration():
    texts = [format_duration(seconds) for seconds in (12.4, 186, 7560)]
    assert texts == ['12 s', '3.1 min', '2.1 h']


def test_seconds_left():
    entries = [
        dict(status='done', wall_s=100.0),
        dict(status='failed', wall_s=30.0),
        dict(status='running', wall_s=50.0),
        dict(status='waiting', wall_s=0.0),
    ]
    # 1.5 runs took 150 s, and 1.5 are left.
    assert seconds_left(entries, 0.5) == 150
    assert seconds_left(entries[1:], 0.0) is None
