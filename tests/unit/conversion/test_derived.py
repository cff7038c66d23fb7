"""Rules that ra_mm.convert(model, blocks=...) derives by tracing."""

import copy
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as nnf
from torch.utils.checkpoint import checkpoint
from torchvision.models import resnet
from torchvision.models.optical_flow import raft
from torchvision.ops import StochasticDepth

import ra_mm
from ra_mm._torch import COMPILES_FUNCTIONS
from ra_mm.conversion import AttentionBlock
from ra_mm.layers import MGRN
from ra_mm.ops import force_path


class Basic(nn.Module):
    """A block with everything that the others change."""

    def __init__(self, channels=4, conv=nn.Conv2d, norm=nn.BatchNorm2d):
        super().__init__()
        self.conv1 = conv(channels, channels, 3, padding=1, bias=False)
        self.bn1 = norm(channels)
        self.conv2 = conv(channels, channels, 3, padding=1, bias=False)
        self.bn2 = norm(channels)
        self.act = nn.ReLU()

    def branch(self, x):
        return self.bn2(self.conv2(self.act(self.bn1(self.conv1(x)))))

    def forward(self, x):
        return self.act(self.branch(x) + x)


class FunctionalReLU(Basic):
    def forward(self, x):
        out = self.branch(x)
        out += x
        return nnf.relu(out)


class Projection(Basic):
    def __init__(self):
        super().__init__()
        self.conv2.stride = (2, 2)
        self.down = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(4, 4, 1))

    def forward(self, inputs):
        return torch.add(self.down(inputs), self.branch(inputs))


class DropPath(Basic):
    def __init__(self):
        super().__init__()
        self.drop_path = StochasticDepth(0.5, 'row')

    def forward(self, x):
        return self.drop_path(self.branch(x)) + x


class LayerScale(Basic):
    """The branch ends in a parameter, and a chain follows the sum."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(4, 1, 1))
        self.after = nn.Conv2d(4, 2, 1)

    def forward(self, x):
        F = self.scale * self.branch(x).permute(0, 2, 3, 1).permute(0, 3, 1, 2)
        return nnf.silu(self.after(x + F))


class Split(Basic):
    """Sums within the branch are none of the block, as in Res2Net."""

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(2, 2, 3, padding=1) for _ in range(2))

    def forward(self, x):
        a, b = self.conv1(x).chunk(2, 1)
        a = self.convs[0](a)
        b = self.convs[1](a + b)
        return x + self.bn2(self.conv2(torch.cat([a, b], 1)))


class TwoOutputs(Basic):
    """What follows the sum also needs what was known before."""

    def forward(self, x):
        shape = x.shape
        y = self.branch(x) + x
        return self.act(y), y.flatten(1).reshape(shape) * self.bn1.weight[0]


class Preactivation(Basic):
    """What both branches share is not counted, however long it is."""

    def __init__(self):
        super().__init__()
        self.mix = nn.Sequential(*(nn.Conv2d(4, 4, 1) for _ in range(5)))

    def forward(self, x):
        x = self.act(self.bn1(x))
        for _ in range(2):
            x = self.act(self.mix(x))
        return self.conv2(self.conv1(x)).add(x)


class TwoSums(Basic):
    """Each sum gets an attention."""

    def forward(self, x):
        x = self.act(x + self.bn1(self.conv1(x)))
        return x + self.bn2(self.conv2(x))


class PartOfTheChannels(Basic):
    """The others are joined to the sum, as in RexNet."""

    def forward(self, x):
        out = torch.cat([self.branch(x), self.conv1(x)], 1)
        out = torch.cat([out[:, :4] + x, out[:, 4:]], 1)
        return out


BLOCKS = [Basic, *Basic.__subclasses__()]


def make(*classes):
    torch.manual_seed(0)
    model = nn.Sequential(*(cls() for cls in classes))
    for p in model.parameters():
        p.data.add_(torch.randn_like(p), alpha=0.1)
    return model


def images():
    return torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(0))


def step(model, x):
    torch.manual_seed(0)  # for drop path
    x = x.clone().requires_grad_()
    outs = model(x)
    outs = outs if isinstance(outs, tuple) else (outs,)
    weights = [p for n, p in model.named_parameters() if 'attention' not in n]
    loss = sum(y.square().sum() for y in outs)
    return outs, torch.autograd.grad(loss, [x, *weights], allow_unused=True)


def set_gamma(model, value=0.5):
    for m in model.modules():
        if isinstance(m, MGRN):
            nn.init.constant_(m.gamma, value)
    return model


@pytest.mark.parametrize('cls', BLOCKS)
@pytest.mark.parametrize('training', [True, False])
def test_same_function(cls, training):
    """Outputs and gradients to the bit, and the names of the weights."""
    plain = make(cls).train(training)
    state = copy.deepcopy(plain.state_dict())
    model = ra_mm.convert(copy.deepcopy(plain), blocks=cls)
    assert isinstance(model[0], cls) and isinstance(model[0], AttentionBlock)
    own = {k: v for k, v in model.state_dict().items() if '.attention' not in k}
    torch.testing.assert_close(own, state, rtol=0, atol=0)
    with force_path('reference'):
        ours, expected = step(model, images()), step(plain, images())
        torch.testing.assert_close(ours, expected, rtol=0, atol=0)
    set_gamma(model)
    assert not torch.equal(step(model, images())[0][0], expected[0][0])


@pytest.mark.parametrize('cls', [Basic, FunctionalReLU])
def test_the_fused_tail_applies(cls):
    """The norm and a ReLU, also a functional one, are split off."""
    block = ra_mm.convert(make(cls), blocks=cls.__name__)[0]
    _, norm, _, act = block.operands(images())
    assert norm is block.bn2 and type(act) is nn.ReLU


SIGNALS = nn.Conv1d, nn.BatchNorm1d, (2, 4, 9)
VOLUMES = nn.Conv3d, nn.BatchNorm3d, (2, 4, 3, 5, 2)


@pytest.mark.parametrize('conv, norm, shape', [SIGNALS, VOLUMES])
def test_signals_and_volumes(conv, norm, shape):
    plain = make(lambda: Basic(4, conv, norm))
    model = ra_mm.convert(copy.deepcopy(plain), blocks='auto')
    x = torch.randn(shape)
    assert model[0].operands(x)[1] is model[0].bn2
    torch.testing.assert_close(step(model, x), step(plain, x))
    set_gamma(model).eval()
    results = []
    for path in ('fused', 'reference'):
        with force_path(path):
            results.append(step(model, x))
    torch.testing.assert_close(*results)


def test_copies_for_the_proof():
    """Blocks that only run on GPUs, or have no values yet."""
    with torch.device('meta'), pytest.warns(UserWarning, match='no values'):
        model = ra_mm.convert(resnet.resnet18())
    assert model.layer1[0].attention.gate.gamma.is_meta
    plain = nn.Sequential(resnet.BasicBlock(4, 4, norm_layer=nn.SyncBatchNorm))
    assert type(ra_mm.convert(plain)[0].bn2) is nn.SyncBatchNorm


def test_auto():
    """Blocks with rules and without, whatever surrounds them."""
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.Sequential(Basic(), Split()), resnet.BasicBlock(4, 4)
    )
    ra_mm.convert(model, blocks='auto', skip='1.1')
    blocks = [n for n, m in model.named_modules() if isinstance(m, AttentionBlock)]
    assert blocks == ['1.0', '2']


def test_only_these_classes():
    model = ra_mm.convert(make(Basic, Split, Projection), blocks=['Basic', Split])
    assert [isinstance(m, AttentionBlock) for m in model] == [True, True, False]


class ShortcutFirst(Basic):
    """A sum of three terms, as in MobileOne."""

    def forward(self, x):
        return self.bn1(x) + self.bn2(self.conv1(x)) + self.act(self.conv2(x))


class SideBySide(Basic):
    """As in a cell of NASNet."""

    def forward(self, x):
        return torch.cat([x + self.conv1(x), self.act(x), x + self.branch(x)], 1)


@pytest.mark.parametrize('cls', [ShortcutFirst, SideBySide])
def test_same_function_to_rounding(cls):
    """Gradients or terms are added in another order."""
    plain = make(cls)
    model = ra_mm.convert(copy.deepcopy(plain), blocks='auto')
    ours, expected = step(model, images()), step(plain, images())
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)
    set_gamma(model)
    assert len({m.gamma for m in model.modules() if isinstance(m, MGRN)}) == 1 + (
        cls is SideBySide
    )


# What is done to models in training and deployment


def test_copies():
    model = make(Basic, lambda: resnet.BasicBlock(4, 4), Split, LayerScale)
    set_gamma(ra_mm.convert(model, blocks='auto'))
    expected = model.eval()(images())
    twin = copy.deepcopy(model)
    assert [type(m) for m in twin.modules()] == [type(m) for m in model.modules()]
    assert torch.equal(twin(images()), expected)
    set_gamma(twin, 0.0)
    assert torch.equal(model(images()), expected)
    assert not torch.equal(twin(images()), expected)


def test_unpickling_in_a_new_process(tmp_path):
    """The pickle has what was derived: nothing is traced or imported there."""
    derived = raft.ResidualBlock(4, 4, norm_layer=nn.BatchNorm2d)
    model = nn.Sequential(derived, resnet.BasicBlock(4, 4))
    set_gamma(ra_mm.convert(model, blocks='auto')).eval()
    torch.save((model, images(), model(images())), tmp_path / 'model.pt')
    code = (
        'import sys, torch\n'
        'model, x, y = torch.load(sys.argv[1], weights_only=False)\n'
        'torch.testing.assert_close(model(x), y)'
    )
    subprocess.run([sys.executable, '-c', code, str(tmp_path / 'model.pt')], check=True)


@pytest.mark.parametrize('cls', [Basic, DropPath, TwoOutputs])
def test_checkpointing(cls):
    """Recomputed in the backward pass, also by the block itself as in OpenMMLab."""
    results = []
    for how in ('not', 'outside', 'with_cp'):
        block = set_gamma(ra_mm.convert(make(cls), blocks=cls))[0]
        block.with_cp = how == 'with_cp'
        torch.manual_seed(0)
        x = images().requires_grad_()
        again = how == 'outside'
        out = checkpoint(block, x, use_reentrant=False) if again else block(x)
        (out[1] if isinstance(out, tuple) else out).square().sum().backward()
        results.append([p.grad for p in (x, *block.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(results[0], results[1]))
    assert all(torch.equal(a, b) for a, b in zip(results[0], results[2]))


def test_block_that_checkpoints_itself():
    class Checkpointed(Basic):
        with_cp = True

        def forward(self, x):
            if self.with_cp and x.requires_grad:
                return self.act(checkpoint(self.branch, x, use_reentrant=False) + x)
            return self.act(self.branch(x) + x)

    model = ra_mm.convert(make(Checkpointed), blocks=Checkpointed)
    assert model[0].with_cp
    model(images()).sum().backward()
    assert model[0].attention.gate.gamma.grad.any()


@pytest.mark.skipif(not COMPILES_FUNCTIONS, reason='graph breaks before PyTorch 2.5')
@pytest.mark.parametrize('cls', [Basic, Projection, LayerScale, Split, TwoOutputs])
def test_compile_and_export(cls):
    """Without a graph break, and for any batch size."""
    torch._dynamo.reset()
    model = set_gamma(ra_mm.convert(make(cls), blocks=cls)).eval()
    expected = model(images())
    compiled = torch.compile(model, fullgraph=True, backend='eager')
    torch.testing.assert_close(compiled(images()), expected, rtol=1e-4, atol=1e-4)
    batch = torch.export.Dim('batch', min=2, max=8)
    exported = torch.export.export(model, (images(),), dynamic_shapes=({0: batch},))
    ours = exported.module()(images())
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)
