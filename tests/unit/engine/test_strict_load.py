from types import SimpleNamespace

import pytest
import torch
from torch import nn

from ra_mm.engine.strict_load import StrictLoadHook, load_weights


def model():
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


def test_weights_as_far_as_they_fit():
    source, target = model(), model()
    weights = source.state_dict()
    bias = target[0].bias.clone()
    del weights['0.bias'], weights['1.num_batches_tracked']
    weights['1.weight'] = torch.ones(4)
    weights['2.x'] = torch.ones(1)
    assert load_weights(target, weights) == {
        'missing': ['0.bias'],
        'unexpected': ['2.x'],
        'size mismatch': ['1.weight (4,) instead of (3,)'],
    }
    assert torch.equal(target[0].weight, source[0].weight)
    assert torch.equal(target[0].bias, bias)
    assert '2.x' in weights, "the caller's are left alone"


@pytest.mark.parametrize('rank', [0, 1])
def test_every_process_stops(rank, monkeypatch):
    """mmengine's own loading complains in the first process alone."""
    monkeypatch.setattr('mmengine.runner.checkpoint.get_dist_info', lambda: (rank, 2))
    with pytest.raises(ValueError, match='does not fit the model.*1 missing'):
        StrictLoadHook(whole=True).after_load_checkpoint(
            SimpleNamespace(model=model()),
            {k: v for k, v in model().state_dict().items() if k != '0.bias'},
        )
