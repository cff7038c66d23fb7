"""Every test in this folder needs a CUDA device."""

from pathlib import Path

import pytest
import torch


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker('gpu')
            if not torch.cuda.is_available():
                item.add_marker(pytest.mark.skip(reason='needs a CUDA device'))


@pytest.fixture(autouse=True)
def without_tf32(monkeypatch):
    """Compute float32 in float32, so that tolerances can be tight."""
    monkeypatch.setattr(torch.backends.cudnn, 'allow_tf32', False)
    monkeypatch.setattr(torch.backends.cuda.matmul, 'allow_tf32', False)
