"""The head of Table 1's dropout."""

import pytest
import torch
from mmengine.registry import init_default_scope
from mmpretrain.models.heads import LinearClsHead

from ra_mm.heads import DropoutClsHead


def test_dropout():
    init_default_scope('mmpretrain')  # another test may have set its own
    torch.manual_seed(0)
    plain = LinearClsHead(num_classes=3, in_channels=1000)
    head = DropoutClsHead(num_classes=3, in_channels=1000, dropout_rate=0.2)
    head.load_state_dict(plain.state_dict())
    feats = (torch.zeros(8, 1), torch.ones(8, 1000))  # the last stage counts

    head.eval()
    assert head(feats).equal(plain(feats))

    head.train()
    seen = []
    head.fc.register_forward_pre_hook(lambda fc, x: seen.append(x[0]))
    head(feats)
    assert set(seen[0].unique().tolist()) == {0, 1.25}
    assert (seen[0] == 0).float().mean() == pytest.approx(0.2, abs=0.02)


def test_rate_out_of_range():
    with pytest.raises(ValueError, match='1.5'):
        DropoutClsHead(num_classes=3, in_channels=8, dropout_rate=1.5)
