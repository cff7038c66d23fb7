"""tools/export_onnx.py: ONNX files compute what the toolboxes compute, at any size."""

import importlib.util

import numpy as np
import onnxruntime
import pytest
import torch
from mmengine.config import Config

from ra_mm._torch import cpu_mixes_dtypes
from ra_mm.export import onnx as onnx_export
from ra_mm.models import build_model

# How the toolboxes themselves call their models.
CALLS = dict(
    classifier=lambda model, x: (model(x, mode='tensor'),),
    detector=lambda model, x: model.extract_feat(x),
    segmenter=lambda model, x: (model.encode_decode(x, [dict(img_shape=x.shape[2:])]),),
)


def randn(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def export(tool):
    return tool('export_onnx')


@pytest.mark.parametrize('half', [False, True])
@pytest.mark.parametrize('name', CALLS)
def test_export(name, half, export, configs, saved_models, tmp_path, capsys):
    """At sizes other than those that the tool compares."""
    if half and not cpu_mixes_dtypes():
        pytest.skip('the CPU lacks half-precision operations in PyTorch 2.1')
    (model, weights), out = saved_models[name], tmp_path / 'new/a.onnx'
    options = '--out', out, '--shape', 64, 96, *['--half'] * half
    error = export(configs / f'{name}.py', weights, *options)
    tolerance = 2e-2 if half else 1e-5
    assert error < tolerance
    printed = capsys.readouterr().out
    assert f'maximal relative error: {error:.1e}' in printed
    assert all(f'{n},     64' in printed for n in (1, 2)) and '3,     97' in printed
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
            expected = CALLS[name](model, x)
        ours = session.run(None, {'image': x.numpy().astype(dtype)})
        assert len(ours) == len(expected)
        for a, b in zip(ours, expected):
            assert a.dtype == dtype and a.shape == b.shape
            assert np.abs(a - b.numpy()).max() < tolerance * b.abs().max()


# Mistakes


@pytest.fixture
def fails(export, message):
    """Run the tool on wrong input and return its message."""
    return lambda *argv: message(export, *argv)


def test_overflow(fails, configs, saved_models, tmp_path):
    checkpoint = torch.load(saved_models['classifier'][1])
    checkpoint['state_dict']['backbone.conv1.weight'].fill_(3e38)
    torch.save(checkpoint, tmp_path / 'a.pth')
    argv = configs / 'classifier.py', tmp_path / 'a.pth', '--shape', 64
    assert 'not finite in PyTorch' in fails(*argv)
    assert not list(tmp_path.rglob('*.onnx'))


def test_no_packages(fails, configs, saved_models, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        'find_spec',
        lambda name, *args: None if name.startswith('onnx') else find(name, *args),
    )
    error = fails(configs / 'classifier.py', saved_models['classifier'][1])
    assert 'install onnx onnxruntime' in error


def test_too_large_an_error(fails, configs, saved_models, tmp_path, monkeypatch):
    """The previous file stays, and nothing else is written."""
    out = tmp_path / 'a.onnx'
    out.write_text('the previous one')
    monkeypatch.setitem(onnx_export.TOLERANCE, torch.float32, 1e-12)
    argv = configs / 'classifier.py', saved_models['classifier'][1]
    assert 'differs from PyTorch' in fails(*argv, '--out', out, '--shape', 64)
    assert [p.name for p in tmp_path.iterdir()] == ['a.onnx']
    assert out.read_text() == 'the previous one'


def test_operation_that_onnx_lacks(fails, configs, tmp_path):
    """mmcv exports deformable convolutions for a runtime of its own."""
    config = tmp_path / 'a.py'
    config.write_text(f"""
_base_ = '{configs / 'classifier.py'}'
model = dict(backbone=dict(
    _delete_=True, type='mmdet.ResNet', depth=50, base_channels=8,
    out_indices=(3, ), stage_with_dcn=(True, False, False, False),
    dcn=dict(type='DCN', deform_groups=1)), head=dict(in_channels=256))
""")
    model = build_model(Config.fromfile(config))
    torch.save(model.state_dict(), tmp_path / 'a.pth')
    error = fails(config, tmp_path / 'a.pth', '--shape', 64)
    assert 'onnxruntime cannot run the exported model' in error
    assert sorted(p.name for p in tmp_path.iterdir()) == ['a.pth', 'a.py']


def test_grey_images(export, configs, tmp_path, capsys):
    options = ['--cfg-options', 'model.backbone.in_channels=1']
    cfg = Config.fromfile(configs / 'classifier.py')
    cfg.model.backbone.in_channels = 1
    weights = tmp_path / 'weights.pth'
    torch.save(dict(state_dict=build_model(cfg).state_dict()), weights)
    export(configs / 'classifier.py', weights, '--out', tmp_path / 'a.onnx', *options)
    assert '(batch, 1, height, width)' in capsys.readouterr().out
