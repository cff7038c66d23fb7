from ra_mm.reproduce.progress import Work, format_duration, seconds_left


def test_format_duration():
    texts = [format_duration(seconds) for seconds in (12.4, 186, 7560)]
    assert texts == ['12 s', '3.1 min', '2.1 h']


def test_seconds_left():
    assert seconds_left([Work('a', 10, 'running', 1.0, 0.0)]) is None
    works = [
        Work('a', 10, 'done', 100.0, 1.0),
        Work('a', 10, 'failed', 30.0, 0.0),
        Work('a', 20, 'running', 50.0, 0.25),  # 200 s in all
        Work('a', 5, 'waiting', 0.0, 0.0),  # 10 s for a unit of length
        Work('b', 7, 'waiting', 0.0, 0.0),  # 150 s, the mean of 100 and 200
    ]
    assert seconds_left(works) == 150 + 50 + 150
