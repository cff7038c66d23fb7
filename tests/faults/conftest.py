"""One path for all trainings."""

import pytest

from ra_mm.layers import force_path


@pytest.fixture(autouse=True)
def one_path(monkeypatch):
    """Train on one path of the tails, so that runs are equal to the bit."""
    monkeypatch.setenv('RA_MM_TAIL', 'fused')  # for the processes of a test
    with force_path('fused'):
        yield
