"""ONNX files compute what the toolboxes compute, at any size."""

import copy
import importlib.util

import numpy as np
import onnxruntime
import pytest
import torch
from mmcv.cnn import fuse_conv_bn
from mmengine.config import Config
from onnx.reference import ReferenceEvaluator
from torch import nn

from ra_mm.layers import ReverseAttention
from ra_mm.reproduce import paper

spec = importlib.util.spec_from_file_location(
    'export_onnx', paper.CONFIGS.parent / 'tools/export_onnx.py'
)
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)

NAMES = ('classifier', 'detector', 'segmenter')
# The toolboxes' own calls.
CALLS = dict(
    classifier=lambda model, x: (model(x, mode='tensor'),),
    detector=lambda model, x: model.extract_feat(x),
    segmenter=lambda model, x: (model.encode_decode(x, [dict(img_shape=x.shape[2:])]),),
)


def randn(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope='module')
def models(configs):
    """Of each kind one in which every weight and statistic tells."""
    models = {}
    for name in NAMES:
        model = tool.build_model(Config.fromfile(configs / f'{name}.py'))
        g = torch.Generator().manual_seed(0)
        for key, t in model.state_dict().items():
            if key.endswith('running_var'):
                t.uniform_(0.5, 2, generator=g)
            elif key.endswith('temp'):
                t.fill_(2.0)
            elif t.ndim == 1:
                t.add_(torch.randn(t.shape, generator=g), alpha=0.2)
        models[name] = model.eval()
    return models


@pytest.fixture(scope='module')
def weights(models, tmp_path_factory):
    folder = tmp_path_factory.mktemp('weights')
    for name, model in models.items():
        torch.save(dict(state_dict=model.state_dict()), folder / f'{name}.pth')
    return folder


def run(*argv):
    return tool.main([str(a) for a in argv])


@pytest.mark.parametrize('half', [False, True])
@pytest.mark.parametrize('name', NAMES)
def test_export(name, half, configs, weights, models, tmp_path, capsys):
    """At sizes that the tool does not look at, in a session of its own."""
    out = tmp_path / 'new/a.onnx'
    error = run(
        configs / f'{name}.py',
        weights / f'{name}.pth',
        '--out',
        out,
        '--shape',
        64,
        96,
        *['--half'] * half,
    )
    tolerance = 2e-2 if half else 1e-5
    assert error < tolerance
    printed = capsys.readouterr().out
    assert f'maximal relative error: {error:.1e}' in printed
    for size in (
        '2,     64,    96',
        '1,     64,    96',
        '3,     97,    96',
        '2,     64,   142',
        '1,     33,    33',
    ):
        assert size in printed
    assert ('MMDeploy' in printed) == (name == 'detector')
    assert list(out.parent.iterdir()) == [out]

    session = onnxruntime.InferenceSession(str(out))
    (image,) = session.get_inputs()
    assert image.shape == ['batch', 3, 'height', 'width']
    assert image.type == f'tensor({"float16" if half else "float"})'
    dtype = np.float16 if half else np.float32
    for shape in ((4, 3, 131, 70), (1, 3, 20, 33)):
        x = randn(*shape)
        with torch.no_grad():
            expected = CALLS[name](models[name], x)
        ours = session.run(None, {'image': x.numpy().astype(dtype)})
        assert len(ours) == len(expected)
        for a, b in zip(ours, expected):
            assert a.dtype == dtype and a.shape == b.shape
            assert np.abs(a - b.numpy()).max() < tolerance * b.abs().max()


@pytest.mark.parametrize('bins', [(2, 2), (3, 3), (6, 6), (1, 4), (5, 2)])
def test_adaptive_pooling(bins):
    ours = tool.AdaptivePooling(bins)
    theirs = nn.AdaptiveAvgPool2d(bins)
    for height in range(1, 20):
        x = randn(2, 3, height, 21 - height)
        torch.testing.assert_close(ours(x), theirs(x))


class Gated(nn.Module):
    """A layer as a network of which the tool exports."""

    kind = 'segmenter'

    def __init__(self, **kwargs):
        super().__init__()
        self.layer = ReverseAttention(3, **kwargs)
        nn.init.ones_(self.layer.gamma)

    def forward(self, image):
        return (self.layer(image, image),)


@pytest.mark.parametrize('aggregation', ['l2', 'l1', 'gap', 'gmp'])
def test_gates_of_float16_are_float32(aggregation, tmp_path):
    """Their sums reach 2.7e9: y = F + (1 + N) F, where N = P / mean(P).

    onnx's own evaluator computes in just the types that the file states;
    onnxruntime on a CPU computes much of float16 in float32.
    """
    path = str(tmp_path / 'a.onnx')
    image = torch.tensor([200.0, 100.0, 0.0]).half()[None, :, None, None]
    image = image.expand(1, 3, 200, 336)
    network = tool.to_half(Gated(aggregation=aggregation).eval())
    tool.export(network, image[:, :, :8, :8], 1, path)
    expected = torch.tensor([800.0, 300.0, 0.0])[None, :, None, None]
    for y in (
        ReferenceEvaluator(path).run(None, {'image': image.numpy()})[0],
        next(tool.run(path, [image]))[0].numpy(),
    ):
        np.testing.assert_allclose(
            y, expected.expand(1, 3, 200, 336).numpy(), rtol=2e-3
        )


def test_large_activations(models, tmp_path):
    """F = 200 on maps of 200x336, in the first stage of a float16 model."""
    network = tool.Network(copy.deepcopy(models['classifier']))
    for name, norm in network.model.backbone.named_modules():
        if isinstance(norm, nn.BatchNorm2d):
            if name.startswith('layer1.') and name.endswith('bn2'):
                nn.init.constant_(norm.bias, 200.0)
            if name.startswith('layer2.0.'):
                norm.running_var.fill_(1e4)
    F = []
    block = network.model.backbone.layer1[1]
    block.attention.register_forward_hook(lambda _, args, y: F.append(args[0]))
    image = randn(1, 3, 800, 1344)
    (expected,) = tool.compute(network, [image])
    assert F[0].shape[2:] == (200, 336) and 150 < F[0].mean() < 250
    block.attention._forward_hooks.clear()

    path = str(tmp_path / 'a.onnx')
    tool.to_half(network)
    tool.export(network, image[..., :64, :64].half(), 1, path)
    (ours,) = tool.run(path, [image.half()])
    assert tool.relative_error(ours[0], expected[0]) < 2e-2


@pytest.mark.parametrize('name', ['classifier', 'detector'])
def test_folded_batch_norms(name, models):
    """mmcv's folding leaves what a whole model computes."""
    model = copy.deepcopy(models[name]).double()
    x = randn(2, 3, 64, 96).double()

    def scores(model):
        if name == 'detector':
            return model.rpn_head(model.extract_feat(x))
        return model(x, mode='tensor')

    with torch.no_grad():
        expected = scores(model)
        folded = fuse_conv_bn(model)
        assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
        torch.testing.assert_close(scores(folded), expected)


# Mistakes


def fails(capsys, *argv):
    with pytest.raises(SystemExit) as error:
        run(*argv)
    assert error.value.code != 0
    return capsys.readouterr().err


@pytest.mark.parametrize(
    'argv, message',
    [
        (['a.py', 'a.pth'], 'a.py: there is no such config file'),
        (['classifier.py', 'a.pth'], 'a.pth: there is no such checkpoint'),
        (['classifier.py', 'classifier.py'], 'is not a PyTorch checkpoint'),
        (['classifier.py', 'detector.pth'], 'does not fit the model'),
        (
            [
                'classifier.py',
                'classifier.pth',
                '--cfg-options',
                'model.backbone.depth=34',
            ],
            'its backbone is another one',
        ),
        (
            ['classifier.py', 'classifier.pth', '--shape', '0'],
            '--shape 0: expected height and width',
        ),
        (
            ['classifier.py', 'classifier.pth', '--shape', '64', '-1'],
            '--shape 64 -1: expected height and width',
        ),
        (
            ['classifier.py', 'classifier.pth', '--shape', '1', '2', '3'],
            '--shape 1 2 3: expected height and width',
        ),
        (['classifier.py', 'classifier.pth', '--out', 'a.pth'], 'ends in .onnx'),
        (
            ['classifier.py', 'classifier.pth', '--out', 'classifier.py/a.onnx'],
            'classifier.py',
        ),
        (['classifier.py', 'overflow.pth', '--shape', '64'], 'in PyTorch already'),
        (['backbone.py', 'classifier.pth'], 'RAResNet cannot be exported'),
        (['empty.py', 'classifier.pth'], 'has no model'),
    ],
)
def test_mistakes(argv, message, configs, weights, tmp_path, monkeypatch, capsys):
    for path in (configs / 'classifier.py', *weights.iterdir()):
        (tmp_path / path.name).symlink_to(path)
    checkpoint = torch.load(weights / 'classifier.pth')
    checkpoint['state_dict']['backbone.conv1.weight'].fill_(3e38)
    torch.save(checkpoint, tmp_path / 'overflow.pth')
    (tmp_path / 'backbone.py').write_text(
        "model = dict(type='ra_mm.RAResNet', depth=18)"
    )
    (tmp_path / 'empty.py').write_text('a = 1')
    monkeypatch.chdir(tmp_path)
    assert message in fails(capsys, *argv)
    assert not list(tmp_path.rglob('*.onnx'))


def test_no_packages(configs, weights, monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    error = fails(capsys, configs / 'classifier.py', weights / 'classifier.pth')
    assert 'onnx and onnxruntime' in error and 'install onnx onnxruntime' in error


def test_too_far_off(configs, weights, tmp_path, monkeypatch, capsys):
    """The file of the last export stays, and nothing else."""
    out = tmp_path / 'a.onnx'
    out.write_text('the last one')
    monkeypatch.setitem(tool.TOLERANCE, torch.float32, 1e-12)
    error = fails(
        capsys,
        configs / 'classifier.py',
        weights / 'classifier.pth',
        '--out',
        out,
        '--shape',
        64,
    )
    assert 'is not what PyTorch computes' in error
    assert [p.name for p in tmp_path.iterdir()] == ['a.onnx']
    assert out.read_text() == 'the last one'


def test_operation_that_onnx_lacks(configs, tmp_path, capsys):
    """mmcv exports deformable convolutions, for a runtime of its own."""
    config = tmp_path / 'a.py'
    config.write_text(f"""
_base_ = '{configs / 'classifier.py'}'
model = dict(backbone=dict(
    _delete_=True, type='mmdet.ResNet', depth=50, base_channels=8,
    out_indices=(3, ), stage_with_dcn=(True, False, False, False),
    dcn=dict(type='DCN', deform_groups=1)), head=dict(in_channels=256))
""")
    model = tool.build_model(Config.fromfile(config))
    torch.save(model.state_dict(), tmp_path / 'a.pth')
    error = fails(capsys, config, tmp_path / 'a.pth', '--shape', 64)
    assert 'onnxruntime cannot run the exported model' in error
    error = fails(capsys, config, tmp_path / 'a.pth', '--shape', 8)
    assert 'cannot run the model on 2 images of 8 x 8 pixels' in error
    assert sorted(p.name for p in tmp_path.iterdir()) == ['a.pth', 'a.py']
