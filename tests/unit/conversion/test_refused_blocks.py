"""Blocks that ra_mm.convert(model, blocks=...) cannot derive a rule for."""

import pytest
import torch
from mmengine.model import ExponentialMovingAverage
from torch import nn
from torch.nn import functional as nnf
from torch.nn.parallel import DataParallel
from torch.optim.swa_utils import AveragedModel
from torchvision.models import resnet

import ra_mm


class Basic(nn.Module):
    """A block with everything that the others change."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(2))
        self.bn1, self.bn2 = nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def branch(self, x):
        return self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))

    def forward(self, x):
        return self.branch(x) + x


def make(*classes):
    torch.manual_seed(0)
    return nn.Sequential(*(cls() for cls in classes))


class Parallel(Basic):
    """Two branches of equal depth."""

    def forward(self, x):
        return self.conv1(x) + self.conv2(x)


def test_shortcut():
    model = ra_mm.convert(make(Parallel), blocks='auto', shortcut='conv1')
    images = torch.randn(4, 4, 8, 8)
    _, _, x, _ = model[0].operands(images)
    assert torch.equal(x, model[0].conv1(images))


class ControlFlow(Basic):
    def forward(self, x):
        return self.branch(x) + x if x.sum() > 0 else x


class Modes(Basic):
    def forward(self, x):
        return nnf.dropout(self.branch(x), 0.1, self.training) + x


class NoSum(Basic):
    def forward(self, x):
        return self.branch(x)


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        return x + self.linear(x)


class Deceitful(Basic):
    """Does something else while it is traced."""

    def forward(self, x):
        return self.branch(x) + (x if isinstance(x, torch.Tensor) else 2 * x)


class OtherShape(Basic):
    def forward(self, x):
        return self.branch(x) + x.mean((2, 3), keepdim=True)


class Constant(Basic):
    def forward(self, x):
        return self.branch(x) * torch.ones(4, 1, 1) + x


def averaged():
    return AveragedModel(make(Basic))


def averaged_by_mmengine():
    return ExponentialMovingAverage(make(Basic))


def compiled():
    return torch.compile(make(Basic))


@pytest.mark.parametrize(
    'model, blocks, message',
    [
        (ControlFlow, 'ControlFlow', 'ControlFlow.*cannot be traced.*add_rule'),
        (Modes, Modes, 'Modes.*training'),
        (NoSum, NoSum, 'NoSum.*no residual sum'),
        (Parallel, Parallel, "Parallel.*conv1 and conv2.*shortcut='name'"),
        (Tokens, Tokens, 'Tokens.*tokens.*feature maps'),
        (Deceitful, Deceitful, 'Deceitful.*trace'),
        (OtherShape, OtherShape, r'OtherShape.*\(2, 4, 1, 1\)'),
        (Constant, Constant, 'Constant.*neither a parameter nor a buffer'),
        (Basic, 'Bottleneck', "blocks='Bottleneck'.*Basic"),
        (Basic, resnet.Bottleneck, 'blocks=.*Bottleneck.*Basic'),
        (Tokens, 'auto', 'Tokens.*tokens'),
        (lambda: DataParallel(Basic()), Basic, 'before.*DataParallel'),
        (averaged, Basic, 'before.*AveragedModel'),
        (averaged_by_mmengine, Basic, 'before.*AveragedModel'),
        (compiled, Basic, 'before.*OptimizedModule'),
        (lambda: ra_mm.convert(make(Basic), blocks=Basic), Basic, 'already: .*0'),
    ],
)
def test_refused(model, blocks, message):
    """One message, and the model is what it was, the blocks that could be, too."""
    torch.manual_seed(0)
    model = nn.Sequential(Basic(), model())
    before = [(n, type(m), dict(vars(m))) for n, m in model.named_modules()]
    kinds = (
        dict(blocks='auto', skip='0')
        if blocks == 'auto'
        else dict(blocks=[Basic, blocks])
    )
    with pytest.raises(ValueError, match=f'(?s){message}'):
        ra_mm.convert(model, **kinds)
    assert [(n, type(m), dict(vars(m))) for n, m in model.named_modules()] == before


class Conformer(nn.Module):
    """A block that adds tokens (N, L, C), with a convolution over them."""

    def __init__(self):
        super().__init__()
        self.conv, self.mlp = nn.Conv1d(16, 16, 3, padding=1), nn.Linear(16, 16)
        self.up = nn.Conv1d(16, 32, 1)

    def forward(self, x):
        return self.mlp(self.conv(x.mT).mT + self.up(x.mT).mT[..., :16]) + x


def test_tokens_are_no_signals():
    with pytest.raises(ValueError, match=r'Conformer.*\(N, C, \*\)'):
        ra_mm.convert(nn.Sequential(Conformer()), blocks='Conformer')
