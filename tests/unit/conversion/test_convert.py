"""ra_mm.convert: which blocks it takes, and what a converted model survives."""

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
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
    model = ra_mm.convert(make_resnet(), names='layer1', log=None)
    ra_mm.convert(model, 'se', skip='layer1')
    kinds = [type(model.get_submodule(n).attention) for n in BLOCKS]
    assert kinds == [ReverseAttention, ReverseAttention, SE]


@pytest.mark.parametrize(
    'change, kwargs, message',
    [
        (lambda m: ra_mm.convert(m), {}, r'already: \(layer1.0, layer1.1, layer2.0\)'),
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


@pytest.mark.skipif(not COMPILES_FUNCTIONS, reason='graph breaks before PyTorch 2.5')
def test_compile_and_export(make_resnet, images):
    """Without a graph break, and for any batch size."""
    torch._dynamo.reset()
    model = set_gamma(ra_mm.convert(make_resnet())).eval()
    expected = model(images)
    batch = torch.export.Dim('batch', min=2, max=8)
    for ours in (
        torch.compile(model, fullgraph=True, backend='eager'),
        torch.export.export(model, (images,), dynamic_shapes=({0: batch},)).module(),
        torch.jit.trace(model, images),
        torch.fx.symbolic_trace(model),
    ):
        torch.testing.assert_close(ours(images), expected, rtol=1e-4, atol=1e-4)
