"""ra_mm.convert: which blocks it takes, and what a converted model survives."""

import copy
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel
from torch.utils.checkpoint import checkpoint
from torchvision.models import resnet, squeezenet1_1

import ra_mm
from ra_mm._torch import COMPILES_FUNCTIONS
from ra_mm.conversion import AttentionBlock
from ra_mm.layers import CBAM, MGRN, SE, ReverseAttention
from ra_mm.ops import force_path


def converted(model):
    return [n for n, m in model.named_modules() if isinstance(m, AttentionBlock)]


def set_gamma(model, value=0.5):
    for m in model.modules():
        if isinstance(m, MGRN):
            nn.init.constant_(m.gamma, value)
    return model


BLOCKS = ['layer1.0', 'layer1.1', 'layer2.0']


def test_same_function_and_same_names(make_resnet, images):
    plain, model = make_resnet(), make_resnet()
    assert ra_mm.convert(model) is model
    assert converted(model) == BLOCKS
    assert all(isinstance(model.get_submodule(n), resnet.Bottleneck) for n in BLOCKS)
    own = [k for k in model.state_dict() if '.attention.' not in k]
    assert own == list(plain.state_dict())
    with force_path('reference'):
        assert torch.equal(model(images), plain(images))
        assert not torch.equal(set_gamma(model)(images), plain(images))


def test_summary(make_resnet, caplog):
    with caplog.at_level('INFO', logger='ra_mm'):
        ra_mm.convert(make_resnet())
    (line,) = caplog.messages
    assert '3 of 3 Bottleneck' in line and '1,024 parameters' in line


@pytest.mark.parametrize(
    'attention, kwargs, kind',
    [
        ('ra', {}, ReverseAttention),
        ('ra', dict(aggregation='l1'), ReverseAttention),
        (SE, {}, SE),
        (lambda channels: CBAM(channels), {}, CBAM),
        (dict(type='ra_mm.SE'), {}, SE),
    ],
)
def test_attentions(attention, kwargs, kind, make_resnet, images):
    model = ra_mm.convert(make_resnet(), attention, **kwargs)
    layers = [model.get_submodule(n).attention for n in BLOCKS]
    assert all(type(layer) is kind for layer in layers)
    if kwargs:
        assert all(layer.gate.aggregation == 'l1' for layer in layers)
    model(images).sum().backward()
    for name, p in model.named_parameters():
        assert p.grad.isfinite().all(), name


@pytest.mark.parametrize(
    'names, skip, expected',
    [
        ('layer2', None, BLOCKS[2:]),
        ('layer1.1', None, BLOCKS[1:2]),
        ('*.0', None, ['layer1.0', 'layer2.0']),
        (['layer1.0', 'layer2.*'], None, ['layer1.0', 'layer2.0']),
        (None, 'layer1', BLOCKS[2:]),
        ('layer1', '*.1', BLOCKS[:1]),
    ],
)
def test_names(names, skip, expected, make_resnet):
    assert converted(ra_mm.convert(make_resnet(), names=names, skip=skip)) == expected


def test_other_blocks_may_get_another_attention(make_resnet, images):
    model = ra_mm.convert(make_resnet(), names='layer1')
    ra_mm.convert(model, 'se', skip='layer1')
    kinds = [type(model.get_submodule(n).attention) for n in BLOCKS]
    assert kinds == [ReverseAttention, ReverseAttention, SE]


@pytest.mark.parametrize(
    'change, kwargs, message',
    [
        (lambda m: ra_mm.convert(m), {}, r'already: \(layer1.0, layer1.1, layer2.0\)'),
        (
            lambda m: ra_mm.convert(m, names='layer1'),
            {},
            r'already: \(layer1.0, layer1.1\)',
        ),
        (lambda m: m, dict(names='layer5'), "'layer5' matches no"),
        (lambda m: m, dict(skip='layer5'), "'layer5' matches no"),
        (lambda m: m, dict(skip='layer*'), "skip=.'layer.*'. leaves no"),
        (lambda m: m, dict(attention='rra'), "attention='rra'.*'ra', 'se'"),
        (lambda m: m, dict(attention=nn.BatchNorm2d), 'BatchNorm2d is not.*OnResidual'),
        (lambda m: m, dict(attention=nn.Identity()), 'attention=Identity'),
        (lambda m: m, dict(aggregation='l3'), "aggregation='l3'"),
        (lambda m: m, dict(agregation='l1'), "'agregation'"),
        (
            lambda m: squeezenet1_1(),
            {},
            'SqueezeNet has no.* residual block.*squeezenet.Fire',
        ),
        (lambda m: nn.Linear(1, 1), {}, 'torch.nn.modules.linear.Linear'),
        (
            lambda m: m.layer1[0].register_module('attention', SE(4)) or m,
            {},
            r"torchvision.models.resnet.Bottleneck \(1 of them\).*'attention'",
        ),
    ],
)
def test_refused(change, kwargs, message, make_resnet):
    """Each by one message, and the model is what it was."""
    model = change(make_resnet())
    before = dict(model.named_modules()), list(model.state_dict())
    classes = [type(m) for m in model.modules()]
    with pytest.raises(ValueError, match=f'(?s){message}'):
        ra_mm.convert(model, **kwargs)
    assert (dict(model.named_modules()), list(model.state_dict())) == before
    assert [type(m) for m in model.modules()] == classes


def test_not_after_ddp(make_resnet, tmp_path):
    torch.distributed.init_process_group(
        'gloo', init_method=f'file://{tmp_path}/store', rank=0, world_size=1
    )
    try:
        with pytest.raises(ValueError, match='DistributedDataParallel'):
            ra_mm.convert(DistributedDataParallel(make_resnet()))
        model = DistributedDataParallel(ra_mm.convert(make_resnet()))
        model(torch.ones(2, 3, 32, 32)).sum().backward()
        assert model.module.layer1[0].attention.gate.gamma.grad.any()
    finally:
        torch.distributed.destroy_process_group()


def test_follows_the_block(make_resnet):
    """Its type, mode, and whether it learns."""
    model = make_resnet().double().eval()
    model.layer1.requires_grad_(False)
    ra_mm.convert(model)
    for name in BLOCKS:
        gate = model.get_submodule(name).attention.gate
        assert gate.gamma.dtype == torch.float64 and not gate.training
        assert gate.gamma.requires_grad == name.startswith('layer2')


# What is done to models in training and deployment


@pytest.mark.parametrize(
    'clone',
    [copy.deepcopy, lambda model: AveragedModel(model).module],
    ids=['deepcopy', 'EMA'],
)
def test_copies(clone, make_resnet, images):
    model = set_gamma(ra_mm.convert(make_resnet()))
    expected = model.eval()(images)
    twin = clone(model)
    assert [type(m) for m in twin.modules()] == [type(m) for m in model.modules()]
    assert torch.equal(twin.eval()(images), expected)
    set_gamma(twin, 0.0)
    assert torch.equal(model(images), expected)
    assert not torch.equal(twin(images), expected)


def test_unpickling_in_a_new_process(make_resnet, images, tmp_path):
    """No import of ra_mm is needed."""
    model = set_gamma(ra_mm.convert(make_resnet())).eval()
    torch.save((model, images, model(images)), tmp_path / 'model.pt')
    code = (
        'import sys, torch\n'
        'model, x, y = torch.load(sys.argv[1], weights_only=False)\n'
        'torch.testing.assert_close(model(x), y)'
    )
    subprocess.run([sys.executable, '-c', code, str(tmp_path / 'model.pt')], check=True)


def test_checkpointing(make_resnet, images):
    """From outside, as torchvision and timm do it, it gives the same gradients."""
    grads = []
    for again in (False, True):
        model = set_gamma(ra_mm.convert(make_resnet()))
        x = model.maxpool(model.relu(model.bn1(model.conv1(images))))
        for block in model.layer1:
            x = checkpoint(block, x, use_reentrant=False) if again else block(x)
        x.square().sum().backward()
        grads.append([p.grad for p in model.layer1.parameters()])
    torch.testing.assert_close(*grads, rtol=0, atol=0)


@pytest.mark.skipif(not COMPILES_FUNCTIONS, reason='torch.export before PyTorch 2.5')
def test_export(make_resnet, images):
    model = set_gamma(ra_mm.convert(make_resnet())).eval()
    expected = model(images)
    batch = torch.export.Dim('batch', min=2, max=8)
    exported = torch.export.export(model, (images,), dynamic_shapes=({0: batch},))
    ours = exported.module()(images)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        traced = torch.jit.trace(model, images)
        torch.testing.assert_close(traced(images), expected, rtol=1e-4, atol=1e-4)
    graph = torch.fx.symbolic_trace(model)
    torch.testing.assert_close(graph(images), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(not COMPILES_FUNCTIONS, reason='graph breaks before PyTorch 2.5')
def test_compile(make_resnet, images):
    """Without a graph break; a second temp needs no second compilation."""
    torch._dynamo.reset()
    model = set_gamma(ra_mm.convert(make_resnet()))
    calls = []

    def backend(graph, inputs):
        calls.append(graph)
        return graph

    compiled = torch.compile(model, fullgraph=True, backend=backend)
    for temp in (1.0, 3.0):
        model.layer1[0].attention.gate.temp.fill_(temp)
        torch.testing.assert_close(
            compiled(images), copy.deepcopy(model)(images), rtol=1e-4, atol=1e-4
        )
    assert len(calls) == 1
