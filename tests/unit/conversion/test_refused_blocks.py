"""Blocks of which ra_mm.convert(model, blocks=...) has to know more, or refused ones."""

import copy

import pytest
import torch
from mmengine.model import ExponentialMovingAverage
from torch import nn
from torch.nn import functional as nnf
from torch.nn.parallel import DataParallel
from torch.optim.swa_utils import AveragedModel
from torchvision.models import resnet

import ra_mm

IMAGES = torch.randn(4, 4, 8, 8)


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
    _, _, x, _ = model[0].operands(IMAGES)
    assert torch.equal(x, model[0].conv1(IMAGES))


class Sized(Basic):
    """Takes tokens with the size of the map that they are."""

    def forward(self, x, size, flag=False):
        height, width = size
        maps = x.transpose(1, 2).view(x.shape[0], x.shape[2], height, width)
        return (maps + self.conv1(maps)).flatten(2).transpose(1, 2)


class TwoSizes(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = Sized()

    def forward(self, x):
        """Calls the block twice, with maps of two sizes."""
        for maps in (x, x[..., ::2]):
            out = self.block(maps.flatten(2).transpose(1, 2), maps.shape[2:], flag=True)
        return out


def test_arguments_besides_tensors():
    """Sizes may change, other arguments must not."""
    plain = TwoSizes()
    model = ra_mm.convert(copy.deepcopy(plain), blocks=Sized, example=IMAGES)
    torch.testing.assert_close(model(IMAGES[..., :6]), plain(IMAGES[..., :6]))
    with pytest.raises(AssertionError, match='flag=True'):
        model.block(torch.ones(1, 4, 4), (2, 2), False)


class Passed(Basic):
    """Its shortcut is an input, as in timm's DLA."""

    def forward(self, x, shortcut=None):
        return self.branch(x) + (x if shortcut is None else shortcut)


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = Passed(), Passed()

    def forward(self, x):
        return self.b(self.a(x), shortcut=2 * x)


def test_example():
    """It shows with which inputs each block is called; nothing changes by it."""
    plain = Pair()
    state = copy.deepcopy(plain.state_dict())
    with pytest.raises(ValueError, match='Passed.*example='):
        ra_mm.convert(plain, blocks=Passed)
    model = ra_mm.convert(copy.deepcopy(plain), blocks=Passed, example=IMAGES)
    assert plain.training and model.training
    assert all(torch.equal(model.state_dict()[k], v) for k, v in state.items())
    torch.testing.assert_close(model(IMAGES), plain(IMAGES))
    with pytest.raises(TypeError, match='shortcut'):
        model.a(IMAGES, shortcut=IMAGES)


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


class Parts(Basic):
    """Also accepts parts of a map, as in DPN of segmentation_models_pytorch."""

    def forward(self, x):
        x = torch.cat(x, 1) if isinstance(x, tuple) else x
        return self.branch(x) + x


class OtherShape(Basic):
    def forward(self, x):
        return self.branch(x) + x.mean((2, 3), keepdim=True)


class Constant(Basic):
    def forward(self, x):
        return self.branch(x) * torch.ones(4, 1, 1) + x


@pytest.mark.parametrize(
    'model, blocks, message',
    [
        (ControlFlow, 'ControlFlow', 'ControlFlow.*cannot be traced.*add_rule'),
        (Modes, Modes, 'Modes.*training'),
        (NoSum, NoSum, 'NoSum.*no residual sum'),
        (Parallel, Parallel, "Parallel.*conv1 and conv2.*shortcut='name'"),
        (Tokens, Tokens, 'Tokens.*tokens.*feature maps'),
        (Deceitful, Deceitful, 'Deceitful.*trace'),
        (Parts, Parts, 'Parts.*types.*example='),
        (OtherShape, OtherShape, r'OtherShape.*\(2, 4, 1, 1\)'),
        (Constant, Constant, 'Constant.*neither a parameter nor a buffer'),
        (Basic, 'Bottleneck', "blocks='Bottleneck'.*Basic"),
        (Basic, resnet.Bottleneck, 'blocks=.*Bottleneck.*Basic'),
        (Tokens, 'auto', 'Tokens.*tokens'),
        (lambda: DataParallel(Basic()), Basic, 'before.*DataParallel'),
        (lambda: AveragedModel(make(Basic)), Basic, 'before.*AveragedModel'),
        (lambda: ExponentialMovingAverage(make(Basic)), Basic, 'before.*AveragedModel'),
        (lambda: torch.compile(make(Basic)), Basic, 'before.*OptimizedModule'),
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


@pytest.mark.parametrize('blocks', [(), 'auto'])
def test_traced_model(blocks):
    model = torch.fx.symbolic_trace(nn.Sequential(Basic(), nn.ReLU()))
    with pytest.raises(ValueError, match='was traced'):
        ra_mm.convert(model, blocks=blocks)


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
