"""RA-ResNet against mmpretrain's, torchvision's and mmseg's ResNets."""
import mmseg.models.backbones
import pytest
import torch
import torchvision
from mmengine.registry import MODELS
from mmpretrain.models import ResNet

from ra_mm.backbones import RAResNet
from ra_mm.layers import ReverseAttention


def randomise(model):
    """Make every weight and statistic tell, batch norm's included."""
    g = torch.Generator().manual_seed(0)
    for name, t in model.state_dict().items():
        if name.endswith('running_var'):
            t.uniform_(0.5, 2, generator=g)
        elif t.ndim == 1:
            t.add_(torch.randn(t.shape, generator=g), alpha=0.1)
    return model


@pytest.mark.parametrize('kwargs', [
    dict(depth=18),
    dict(depth=34),
    dict(depth=50, style='caffe'),
    dict(depth=50, deep_stem=True, avg_down=True),
    dict(depth=50, strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4)),
    dict(depth=18, drop_path_rate=0.5),
])
def test_gamma_0_is_resnet(kwargs):
    """The same outputs and gradients, to the bit, in training mode."""
    kwargs.update(base_channels=8, stem_channels=8, out_indices=(0, 1, 2, 3))
    plain = randomise(ResNet(**kwargs))
    ra = RAResNet(**kwargs)
    assert not ra.load_state_dict(plain.state_dict(), strict=False)[1]
    x = torch.randn(2, 3, 64, 64, requires_grad=True)
    grads = []
    for model in (plain, ra):
        model.train()
        torch.manual_seed(0)  # for drop_path
        outs = model(x)
        weights = [
            p for k, p in model.named_parameters() if 'attention' not in k
        ]
        grads.append((outs,
                      torch.autograd.grad(
                          sum(out.sum() for out in outs), [x, *weights])))
    for a, b in zip(*grads):
        for t, u in zip(a, b):
            assert torch.equal(t, u)


@pytest.mark.parametrize('depth, extra', [(18, 1920), (50, 15104),
                                          (101, 32512)])
def test_parameters(depth, extra):
    """RA on all blocks, projection blocks included: sum of out_channels."""
    count = [
        sum(p.numel() for p in cls(depth).parameters())
        for cls in (ResNet, RAResNet)
    ]
    assert count[1] - count[0] == extra


@pytest.mark.parametrize('depth', [34, 152])
def test_every_block_and_every_gradient(depth):
    model = RAResNet(depth, base_channels=4, stem_channels=4)
    blocks = sum(model.stage_blocks)
    layers = [m for m in model.modules() if isinstance(m, ReverseAttention)]
    assert len(layers) == blocks
    model = randomise(model).train()
    assert model(torch.randn(2, 3, 64, 64))[0].sum().backward() is None
    for name, p in model.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all(), name
    assert all(layer.gamma.grad.any() for layer in layers)


def test_checkpointing_equals_plain():
    outs = []
    state = randomise(RAResNet(50, base_channels=8)).state_dict()
    x = torch.randn(2, 3, 64, 64, requires_grad=True)
    for with_cp in (False, True):
        model = RAResNet(50, base_channels=8, with_cp=with_cp)
        model.load_state_dict(state)
        y = model.train()(x)[0]
        outs.append((y, torch.autograd.grad(y.sum(), x)[0]))
    assert torch.equal(outs[0][0], outs[1][0])
    assert torch.equal(outs[0][1], outs[1][1])


def test_frozen_stages_and_norm_eval():
    model = RAResNet(18, frozen_stages=1, norm_eval=True).train()
    frozen = {k for k, p in model.named_parameters() if not p.requires_grad}
    assert {'conv1.weight', 'layer1.1.attention.gamma'} <= frozen
    assert 'layer2.0.attention.gamma' not in frozen
    assert not any(m.training for m in model.modules()
                   if isinstance(m, torch.nn.BatchNorm2d))
    assert model.eval() is model


def test_zero_init_residual():
    model = RAResNet(50)
    model.init_weights()
    assert not model.layer3[2].bn3.weight.any()
    assert model.layer3[2].bn2.weight.all()


def test_unknown_depth():
    with pytest.raises(ValueError, match='depth=51.*18, 34, 50, 101, 152'):
        RAResNet(51)


# The Pretrained init


def pretrained(path, prefix=None, **kwargs):
    kwargs.setdefault('depth', 18)
    cfg = dict(type='Pretrained', checkpoint=str(path))
    if prefix:
        cfg['prefix'] = prefix
    model = MODELS.build(
        dict(type='ra_mm.RAResNet', init_cfg=cfg, **kwargs))
    model.init_weights()
    return model.eval()


def test_torchvision_weights(tmp_path):
    plain = randomise(torchvision.models.resnet18()).eval()
    torch.save(plain.state_dict(), tmp_path / 'tv.pth')
    model = pretrained(tmp_path / 'tv.pth')
    plain.avgpool = plain.fc = torch.nn.Identity()
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(model(x)[0].flatten(1), plain(x))
    missing, unexpected = model.load_state_dict(plain.state_dict(), False)
    assert all(k.endswith('attention.gamma') for k in missing)
    assert not unexpected


def test_resnet_v1c_weights(tmp_path):
    """mmdet's and mmseg's deep stem has other names for the same weights."""
    plain = randomise(
        mmseg.models.backbones.ResNetV1c(
            depth=18, num_stages=4, out_indices=(3, )))
    plain.eval()  # returns None
    torch.save(dict(state_dict=plain.state_dict()), tmp_path / 'v1c.pth')
    model = pretrained(tmp_path / 'v1c.pth', deep_stem=True)
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(model(x)[0], plain(x)[0])


@pytest.mark.parametrize('prefix', [None, 'backbone.'])
@pytest.mark.parametrize('as_list', [False, True])
def test_whole_model_weights(tmp_path, prefix, as_list):
    """gamma and temp travel; a list of initialisers does not overwrite."""
    source = randomise(RAResNet(18))
    source.layer2[0].attention.temp.fill_(4.)
    state = {f'backbone.{k}': v for k, v in source.state_dict().items()}
    state['head.fc.weight'] = torch.zeros(10, 512)
    torch.save(dict(state_dict=state, meta=dict(epoch=3)), tmp_path / 'a.pth')
    cfg = dict(
        type='Pretrained', checkpoint=str(tmp_path / 'a.pth'), prefix=prefix)
    if as_list:
        cfg = [dict(type='Kaiming', layer='Conv2d'), cfg]
    model = RAResNet(18, init_cfg=cfg)
    model.init_weights()
    for key, value in source.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key


def drop(*ends):
    return lambda state: {
        k: v for k, v in state.items() if not k.endswith(ends)
    }


@pytest.mark.parametrize('change, kwargs, message', [
    (drop('bn1.weight'), {}, r'9 missing.*\n\s+bn1.weight'),
    (drop('0.attention.gamma'), {}, '4 missing'),
    (lambda s: s, dict(depth=34), r'missing[\s\S]*layer1.2'),
    (lambda s: s, dict(deep_stem=True), r'stem.0.conv.weight'),
    (lambda s: s, dict(base_channels=32), r'conv1.weight: \(64, 64, 3, 3\) '
     r'in the checkpoint, \(32, 64, 3, 3\) here'),
    (lambda s: {**s, 'layer4.7.conv1.weight': torch.ones(1)}, {},
     r'1 not in RAResNet:\n\s+layer4.7'),
    (lambda s: {'fc.weight': torch.ones(2, 2)}, {}, 'missing'),
    (lambda s: {**s, 'iteration': 3}, {}, 'no weights'),
    (lambda s: [1, 2], {}, 'holds a list'),
])
def test_wrong_weights(tmp_path, change, kwargs, message):
    torch.save(change(RAResNet(18).state_dict()), tmp_path / 'a.pth')
    with pytest.raises(ValueError, match=message):
        pretrained(tmp_path / 'a.pth', **kwargs)


@pytest.mark.parametrize('content', [
    b'', b'not a checkpoint', 'truncated',
    b'cos\nsystem\n(S"touch pwned"\ntR.'
])
def test_not_a_checkpoint(tmp_path, content, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / 'a.pth'
    if content == 'truncated':
        torch.save(RAResNet(18).state_dict(), path)
        content = path.read_bytes()[:-1000]
    path.write_bytes(content)
    with pytest.raises(ValueError, match='a.pth is no checkpoint'):
        pretrained(path)
    assert not (tmp_path / 'pwned').exists()


def test_no_checkpoint(tmp_path):
    with pytest.raises(FileNotFoundError, match='no such checkpoint'):
        pretrained(tmp_path / 'a.pth')


@pytest.mark.parametrize('scope', ['mmdet', 'mmseg', 'mmpretrain'])
def test_builds_in_every_scope(scope):
    import importlib
    registry = importlib.import_module(f'{scope}.registry').MODELS
    model = registry.build(dict(type='ra_mm.RAResNet', depth=18))
    assert isinstance(model, RAResNet)
