"""Tracing, export, transforms and compilation of the tail."""

import copy

import pytest
import torch
from torch.autograd import forward_ad

from ra_mm._torch import COMPILES_FUNCTIONS
from ra_mm.ops import force_path


@pytest.mark.skipif(not COMPILES_FUNCTIONS, reason='torch.export before PyTorch 2.5')
@pytest.mark.parametrize('training', [True, False])
def test_tracing_and_export(training, monkeypatch, tail_and_inputs, path_of):
    """Exported graphs contain the reference's operators and none of ours."""
    module, z, x = tail_and_inputs(dtype=torch.float32)
    module.train(training)
    with force_path('reference'):
        expected = module(z, x)
    traced = torch.jit.trace(module, (z, x))
    assert 'PythonOp' not in str(traced.graph)
    torch.testing.assert_close(traced(z, x), expected)
    exported = torch.export.export(module, (z, x)).module()
    torch.testing.assert_close(exported(z, x), expected)
    torch.testing.assert_close(torch.fx.symbolic_trace(module)(z, x), expected)
    monkeypatch.setattr(torch.onnx, 'is_in_onnx_export', lambda: True)
    y = module(z, x)
    assert path_of(y) == 'reference'
    torch.testing.assert_close(y, expected)


def test_function_transforms(tail_and_inputs):
    module, z, x = tail_and_inputs()
    module.eval()
    expected = module(z, x)
    y = torch.func.vmap(lambda z, x: module(z[None], x[None])[0])(z, x)
    torch.testing.assert_close(y, expected)
    y, tangent = torch.func.jvp(lambda z: module(z, x), (z,), (x,))
    with forward_ad.dual_level():
        dual = forward_ad.unpack_dual(module(forward_ad.make_dual(z, x), x))
    torch.testing.assert_close(dual.primal, expected)
    torch.testing.assert_close(dual.tangent, tangent)


@pytest.mark.skipif(not COMPILES_FUNCTIONS, reason='graph breaks before PyTorch 2.5')
@pytest.mark.parametrize('path', ['fused', 'fused_sum', 'reference'])
@pytest.mark.parametrize('training', [True, False])
def test_changing_temp_does_not_recompile(path, training, tail_and_inputs):
    """One graph without breaks for all temps, with the same results."""
    module, z, x = tail_and_inputs(dtype=torch.float32)
    module.train(training)
    compilations = []

    def backend(graph, example_inputs):
        compilations.append(graph)
        return graph.forward

    eager = copy.deepcopy(module)
    compiled = torch.compile(module, backend=backend, fullgraph=True)
    for temp in (30.0, 20.5, 1.0):
        for m in (eager, module):
            m.attention.gate.temp.fill_(temp)
        results = []
        for m in (eager, compiled):
            z, x = (t.detach().requires_grad_() for t in (z, x))
            with force_path(path):
                y = m(z, x)
            results.append(
                (y, *torch.autograd.grad(y.square().sum(), [z, x, *m.parameters()]))
            )
        for a, b in zip(*results):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(module.state_dict(), eager.state_dict())
    assert len(compilations) == 1
