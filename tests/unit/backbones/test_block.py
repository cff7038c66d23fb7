"""What holds for every backbone and every attention."""

import copy

import mmpretrain.models
import pytest
import torch
from mmcv.cnn import fuse_conv_bn

from ra_mm.ops import force_path

FAMILIES = ('RAResNet', 'RAResNeXt', 'RAMobileNetV2')
RA = dict(type='ra_mm.ReverseAttention')
RIVALS = [dict(type='ra_mm.SE'), dict(type='ra_mm.CBAM')]


def tails(*outs):
    """How many tails autograd's graph of the outputs has of each path."""
    names = []
    todo, seen = [out.grad_fn for out in outs], set()
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            names.append(node.name())
            todo.extend(n for n, _ in node.next_functions)
    return dict(
        fused=names.count('BNTailBackward'), fused_sum=names.count('FusedSumBackward')
    )


def run(model, x):
    """Outputs, gradients by name and statistics of a training step.

    A parameter without a gradient is an error of autograd.
    """
    model.train()
    x = x.detach().requires_grad_()
    with torch.random.fork_rng():
        torch.manual_seed(0)  # for drop_path
        outs = model(x)
    loss = sum((out * out.detach().cos()).sum() for out in outs)
    names, weights = zip(*model.named_parameters())
    grads = torch.autograd.grad(loss, [x, *weights])
    return outs, dict(zip(['x', *names], grads)), dict(model.named_buffers())


@pytest.mark.parametrize(
    'family, kwargs',
    [
        ('RAResNet', dict(depth=18)),
        ('RAResNet', dict(depth=34)),
        ('RAResNet', dict(depth=50, style='caffe')),
        ('RAResNet', dict(depth=50, deep_stem=True)),
        ('RAResNet', dict(depth=50, deep_stem=True, avg_down=True)),
        ('RAResNet', dict(depth=50, strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4))),
        ('RAResNet', dict(depth=18, drop_path_rate=0.5)),
        ('RAResNeXt', dict(out_indices=(0, 1, 2, 3))),
        ('RAMobileNetV2', dict(widen_factor=0.25, out_indices=range(8))),
        ('RAMobileNetV2', dict(norm_cfg=dict(type='GN', num_groups=2))),
    ],
)
@pytest.mark.parametrize('path', ['fused', 'reference'])
def test_gamma_0_is_the_plain_backbone(family, kwargs, path, randomise, build, small):
    """The same outputs, gradients and statistics in training mode.

    To the bit on the reference path; the fused one sums in another order.
    """
    if family == 'RAResNet':
        kwargs = dict(
            base_channels=8, stem_channels=8, out_indices=(0, 1, 2, 3), **kwargs
        )
    ra = build(family, **kwargs)
    plain = randomise(
        getattr(mmpretrain.models, family[2:])(**{**small[family], **kwargs})
    )
    assert not ra.load_state_dict(plain.state_dict(), strict=False)[1]
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 64, 64, generator=g)
    exact = dict(rtol=0, atol=0)
    if path == 'fused':
        plain, ra, x, exact = plain.double(), ra.double(), x.double(), {}
    expected = run(plain, x)
    with force_path(path):
        ours = run(ra, x)
    for name in list(ours[1]) + list(ours[2]):
        if '.attention.' in name:
            ours[1].pop(name, None), ours[2].pop(name, None)
    torch.testing.assert_close(ours, expected, **exact)


@pytest.mark.parametrize(
    'memory_format', [torch.contiguous_format, torch.channels_last]
)
@pytest.mark.parametrize(
    'family, kwargs, fused, fused_sum',
    [
        ('RAResNet', dict(), 8, 0),
        ('RAResNet', dict(norm_eval=True), 8, 0),
        ('RAResNet', dict(drop_path_rate=0.5), 1, 7),  # never the first block's
        ('RAResNet', dict(norm_cfg=dict(type='GN', num_groups=2)), 0, 8),
        ('RAResNeXt', dict(), 16, 0),
        ('RAMobileNetV2', dict(), 11, 0),
        ('RAMobileNetV2', dict(norm_cfg=dict(type='GN', num_groups=2)), 0, 11),
    ],
)
def test_paths_agree(family, kwargs, fused, fused_sum, memory_format, randomise, build):
    """Every tail takes the fastest path that applies, with the reference's results."""
    model = randomise(build(family, **kwargs)).double()
    model.to(memory_format=memory_format)
    reference = copy.deepcopy(model)
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 64, 64, generator=g, dtype=torch.float64)
    x = x.to(memory_format=memory_format)
    ours = run(model, x)
    with force_path('reference'):
        expected = run(reference, x)
    assert tails(*ours[0]) == dict(fused=fused, fused_sum=fused_sum)
    assert tails(*expected[0]) == dict(fused=0, fused_sum=0)
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize('family', FAMILIES)
@pytest.mark.parametrize('attention', [RA, *RIVALS])
def test_checkpointing_equals_plain(family, attention, randomise, build):
    outs = []
    state = randomise(build(family, attention=attention)).state_dict()
    for with_cp in (False, True):
        model = build(family, attention=attention, with_cp=with_cp)
        model.load_state_dict(state)
        g = torch.Generator().manual_seed(0)
        x = torch.randn(2, 3, 64, 64, generator=g, requires_grad=True)
        calls = []
        convs = [m for m in model.layer4.modules() if hasattr(m, 'stride')]
        next(
            m for m in convs if isinstance(m, torch.nn.Conv2d)
        ).register_forward_pre_hook(lambda *args: calls.append(args))
        y = model.train()(x)[-1]
        (y * torch.randn(y.shape, generator=g)).sum().backward()
        assert len(calls) == 1 + with_cp  # again in the backward pass
        outs.append((y, x.grad, *(p.grad for p in model.parameters())))
    for a, b in zip(*outs):
        assert torch.equal(a, b)


@pytest.mark.parametrize('family', FAMILIES)
@pytest.mark.parametrize('attention', [RA, *RIVALS])
def test_folded_batch_norms(family, attention, randomise, build, attentions):
    """mmcv puts the norms into the convolutions, before deployment."""
    model = randomise(build(family, attention=attention)).double().eval()
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 64, 64, generator=g, dtype=torch.float64)
    expected = model(x)[-1]
    folded = fuse_conv_bn(model)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in folded.modules())
    ours = folded(x)[-1]
    torch.testing.assert_close(ours, expected)
    assert tails(ours)['fused_sum'] == len(attentions(model)) * (attention is RA)


@pytest.mark.parametrize(
    'family, frozen', [('RAResNet', 'layer1.1'), ('RAMobileNetV2', 'layer1.0')]
)
def test_frozen_stages_and_norm_eval(family, frozen, build):
    model = build(family, frozen_stages=1, norm_eval=True).train()
    learns = {k for k, p in model.named_parameters() if p.requires_grad}
    assert f'{frozen}.attention.gate.gamma' not in learns
    assert 'layer2.1.attention.gate.gamma' in learns
    assert not any(k.startswith(('conv1', 'layer1')) for k in learns)
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert norms and not any(m.training for m in norms)
    assert model.eval() is model


def test_bn_variant_follows_norm_eval(build, attentions):
    model = build(
        'RAResNet', norm_eval=True, attention=dict(RA, normalization='bn')
    ).train()
    assert not any(layer.gate.bn.training for layer in attentions(model))
    assert model(torch.ones(1, 3, 32, 32))  # a batch of one image


@pytest.mark.parametrize(
    'cfg, message',
    [
        (dict(type='ra_mm.ReverseAttn'), "ReverseAttn'.* is not in"),
        (dict(RA, channels=64), "'channels'"),
        (dict(type='mmpretrain.GRN'), 'ResidualSum'),
        (dict(aggregation='l1'), '"type"'),
        (None, 'attention=None'),
    ],
)
def test_wrong_attention(cfg, message, build):
    with pytest.raises(ValueError, match=f'(?s){message}'):
        build('RAResNet', attention=cfg)
