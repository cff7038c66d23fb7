"""Tracing, export, transforms, compilation and data parallelism of the tail."""

import copy
import os

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.autograd import forward_ad
from torch.distributed.nn.functional import all_reduce
from torch.nn.parallel import DistributedDataParallel

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
    graph = torch.fx.symbolic_trace(module)
    torch.testing.assert_close(graph(z, x), expected)
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


# Several processes


class SyncedNorm(nn.Module):
    """Batch norm over all processes, as SyncBN, which needs a GPU."""

    def __init__(self, bn):
        super().__init__()
        self.weight, self.bias = bn.weight, bn.bias

    def forward(self, z):
        M = torch.tensor(z.numel() / z.shape[1], dtype=z.dtype)
        M = all_reduce(M)
        mean = (all_reduce(z.sum(dim=(0, 2, 3))) / M)[:, None, None]
        z = z - mean
        var = (all_reduce(z.square().sum(dim=(0, 2, 3))) / M)[:, None, None]
        return (
            z / (var + 1e-5).sqrt() * self.weight[:, None, None]
            + (self.bias[:, None, None])
        )


def train_on_share(rank, store, results, tail_and_inputs, path_of):
    """The gradients of a process that has some of the 5 images."""
    torch.set_num_threads(1)
    dist.init_process_group(
        'gloo', init_method=f'file://{store}', rank=rank, world_size=2
    )
    module, z, x = tail_and_inputs((5, 4, 3, 2))
    module.norm = SyncedNorm(module.norm)
    share = (slice(3), slice(3, 5))[rank]
    z, x = z[share].requires_grad_(), x[share].requires_grad_()
    ddp = DistributedDataParallel(module)
    y = ddp(z, x)
    assert path_of(y) == 'fused_sum'
    (2 * y.square().sum()).backward()  # DDP averages over the 2
    if rank == 0:
        torch.save({k: p.grad for k, p in module.named_parameters()}, results)
    dist.barrier()
    # As the process group is destroyed, gloo's thread may wait for Python's
    # lock, and Python for the thread.
    os._exit(0)


def test_two_processes(tmp_path, tail_and_inputs, path_of):
    """Uneven shares and synchronised norms give the gradients of the complete batch."""
    args = tmp_path / 'store', tmp_path / 'grads', tail_and_inputs, path_of
    mp.start_processes(train_on_share, args, nprocs=2, start_method='fork')
    module, z, x = tail_and_inputs((5, 4, 3, 2))
    y = module(z, x)
    assert path_of(y) == 'fused'
    y.square().sum().backward()
    torch.testing.assert_close(
        torch.load(tmp_path / 'grads'),
        {k: p.grad for k, p in module.named_parameters()},
    )
