"""How often the tails are compiled."""

import pytest
import torch
from torch import nn

from ra_mm._torch import COMPILES_FUNCTIONS
from ra_mm.layers import ReverseAttention
from ra_mm.ops import dispatch, force_path


@pytest.mark.skipif(not COMPILES_FUNCTIONS, reason='PyTorch < 2.5 runs them eagerly')
def test_one_compilation_serves_all_shapes(monkeypatch):
    """Blocks of any width, images of any size: one graph each way.

    There is one for each dtype, and for batch norm in training and frozen.
    """
    # Autograd starts its threads here, before the compiler registers devices;
    # a later test could not fork otherwise.
    torch.ones(1, requires_grad=True).sum().backward()
    graphs = []

    def backend(graph, example_inputs):
        graphs.append(graph)
        return graph.forward

    compiled = {}

    def compile(function):
        if function not in compiled:
            compiled[function] = torch.compile(function, dynamic=True, backend=backend)
        return compiled[function]

    monkeypatch.setattr(dispatch, '_compile', compile)
    torch._dynamo.reset()

    def step(dtype, training, channels, size):
        layer, norm = ReverseAttention(channels), nn.BatchNorm2d(channels)
        z, x = torch.randn(2, 4, channels, *size).to(dtype)
        with force_path('compiled'):
            y = layer.tail(z.requires_grad_(), norm.train(training), x, nn.ReLU())
        y.float().sum().backward()

    sizes = [(8, 8), (10, 12), (12, 10), (14, 14), (4, 20), (7, 7)]
    counts = []
    for dtype in (torch.float32, torch.bfloat16):
        for training in (True, False):
            for size in sizes:
                for channels in (8, 12, 4):
                    step(dtype, training, channels, size)
            counts.append(len(graphs))
    assert counts == [2, 4, 6, 8]
    assert len(compiled) == 2 and not dispatch._compilation_failed
