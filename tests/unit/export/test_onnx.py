"""Parts of the ONNX export: operators, pooling, float16 and errors."""

import numpy as np
import pytest
import torch
from mmengine.config import Config
from torch import nn

from ra_mm.errors import UserError
from ra_mm.export import onnx as onnx_export
from ra_mm.layers import ReverseAttention


def randn(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize('bins', [(2, 2), (3, 3), (6, 6), (1, 4), (5, 2)])
def test_adaptive_pooling(bins):
    for height in range(1, 20):
        x = randn(2, 3, height, 21 - height)
        expected = nn.functional.adaptive_avg_pool2d(x, bins)
        torch.testing.assert_close(onnx_export.adaptive_pooling(x, bins), expected)


class Gated(nn.Module):
    """A single RA layer with gamma = 1, exported like a segmenter."""

    kind = 'segmenter'

    def __init__(self, **kwargs):
        super().__init__()
        self.layer = ReverseAttention(3, **kwargs)
        nn.init.ones_(self.layer.gate.gamma)

    def forward(self, image):
        return (self.layer(image, image),)


def test_to_half():
    """Everything except the gates is float16; what they compute is float32."""
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), Gated())
    assert onnx_export.to_half(model) is model
    dtypes = {name: t.dtype for name, t in model.state_dict().items()}
    gates = {name for name, dtype in dtypes.items() if dtype == torch.float32}
    assert gates == {'2.layer.gate.gamma', '2.layer.gate.temp'}
    G = model[2].layer.gate(torch.full((1, 3, 200, 200), 200.0).half())
    assert G.dtype == torch.float32
    torch.testing.assert_close(G, torch.full((1, 3), 2.0))


@pytest.mark.parametrize('aggregation', ['l2', 'l1', 'gap', 'gmp'])
def test_gates_are_float32(aggregation, tmp_path):
    """Their sums reach 2.7e9: y = F + (1 + N) F, where N = P / mean(P).

    onnx's reference evaluator computes in the types that the file states;
    onnxruntime computes much of float16 in float32 on a CPU.
    """
    reference = pytest.importorskip('onnx.reference')
    pytest.importorskip('onnxruntime')
    path = str(tmp_path / 'a.onnx')
    image = torch.tensor([200.0, 100.0, 0.0]).half()[None, :, None, None]
    image = image.expand(1, 3, 200, 336)
    network = onnx_export.to_half(Gated(aggregation=aggregation).eval())
    names = onnx_export.export(network, image[:, :, :8, :8], 1, path)
    assert names == ['logits']
    expected = torch.tensor([800.0, 300.0, 0.0])[None, :, None, None]
    for y in (
        reference.ReferenceEvaluator(path).run(None, {'image': image.numpy()})[0],
        next(onnx_export.run_onnx(path, [image]))[0].numpy(),
    ):
        np.testing.assert_allclose(
            y, expected.expand(1, 3, 200, 336).numpy(), rtol=2e-3
        )


def test_operators(tmp_path):
    """The norm reads F once and writes no map; gamma / temp is a constant.

    After what onnxruntime does on every device, nothing casts or reshapes G.
    """
    onnx = pytest.importorskip('onnx')
    onnxruntime = pytest.importorskip('onnxruntime')
    network = Gated().eval()
    nn.init.constant_(network.layer.gate.gamma, 3.0)
    network.layer.gate.temp.fill_(2.0)
    onnx_export.export(network, randn(2, 3, 8, 6), 1, str(tmp_path / 'a.onnx'))

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = (
        onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    )
    options.optimized_model_filepath = str(tmp_path / 'optimized.onnx')
    onnxruntime.InferenceSession(str(tmp_path / 'a.onnx'), options)
    nodes = onnx.load(tmp_path / 'optimized.onnx').graph.node
    # A view of F, which is the image here, as is x.
    row = next(node for node in nodes if node.op_type == 'Reshape').output[0]
    readers = {
        name: [node.op_type for node in nodes if name in node.input]
        for name in ('image', row)
    }
    assert readers == {
        'image': ['Reshape', 'Mul', 'Add'],
        row: ['Transpose', 'MatMul'],  # which onnxruntime fuses
    }
    of_norm = ['Reshape', 'Transpose', 'MatMul', 'Sqrt']
    of_G = ['ReduceMean', 'Add', 'Reciprocal', 'Mul', 'Mul', 'Add']
    assert sorted(node.op_type for node in nodes) == sorted(
        [*of_norm, *of_G, 'Mul', 'Add']
    )


def test_relative_error():
    expected = torch.tensor([1.0, -4.0])
    assert onnx_export.relative_error(torch.tensor([1.0, -3.0]), expected) == 0.25
    for wrong in ([1.0, torch.nan], [1.0, torch.inf], [1.0]):
        assert onnx_export.relative_error(torch.tensor(wrong), expected) == torch.inf


def test_other_kinds_of_models():
    with pytest.raises(UserError, match='Linear cannot be exported'):
        onnx_export.ExportedNetwork(nn.Linear(2, 2))


def test_preprocessing():
    cfg = Config(dict(model=dict(), data_preprocessor=dict(to_rgb=True)))
    assert onnx_export.describe_preprocessing(cfg) == 'RGB from 0 to 255'
    cfg.model.data_preprocessor = dict(mean=[1.0], std=[2.0], pad_size_divisor=32)
    text = onnx_export.describe_preprocessing(cfg)
    assert text.startswith('BGR')
    assert '[1.0]' in text and '[2.0]' in text and '32' in text


def test_images_that_are_too_small():
    network = nn.Conv2d(3, 4, kernel_size=9)
    with pytest.raises(UserError, match='2 images of 8 x 10 pixels'):
        onnx_export.run_torch(network, [torch.zeros(2, 3, 8, 10)])
