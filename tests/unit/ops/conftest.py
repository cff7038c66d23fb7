"""The end of a block with random weights, and its results by each path."""

import copy

import pytest
import torch
from torch import nn

from ra_mm.layers import ReverseAttention
from ra_mm.ops import force_path

NORMS = {3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
NODES = dict(FusedSumBackward='fused_sum', BNTailBackward='fused')


class Tail(nn.Module):
    """The end of a block, after its last convolution."""

    def __init__(self, channels, norm, act):
        super().__init__()
        self.norm = norm
        self.attention = ReverseAttention(channels)
        self.act = act

    def forward(self, z, x):
        return self.attention.tail(z, self.norm, x, self.act)


def _tail_and_inputs(shape=(3, 4, 5, 2), dtype=torch.float64, relu=True, **bn):
    """A tail whose every weight and statistic matters, and z and x."""
    g = torch.Generator().manual_seed(0)
    C = shape[1]
    act = nn.ReLU(inplace=True) if relu else nn.Identity()
    module = Tail(C, NORMS[len(shape)](C, **bn), act)
    for t in module.state_dict().values():
        if t.dtype.is_floating_point and t.ndim:
            t.normal_(generator=g)
    if module.norm.running_var is not None:
        module.norm.running_var.uniform_(0.5, 2, generator=g)
    module.attention.gate.temp.fill_(0.7)
    module = module.to(dtype if dtype == torch.float64 else torch.float32)
    z, x = torch.randn(2, *shape, dtype=torch.float64, generator=g)
    return module, z.to(dtype), x.to(dtype)


def _path_of(y):
    """The path that computed y, from its node in autograd's graph."""
    node = y.grad_fn
    if node.name() not in NODES:
        node = node.next_functions[0][0]  # the activation's input
    return NODES.get(node.name(), 'reference')


def _run(path, module, z, x):
    """y, the gradients of all inputs and parameters, the new statistics."""
    module = copy.deepcopy(module)
    z, x = z.detach().requires_grad_(), x.detach().requires_grad_()
    with force_path(path):
        y = module(z, x)
    g = torch.Generator().manual_seed(1)
    dy = torch.randn(y.shape, dtype=torch.float64, generator=g).to(y.dtype)
    grads = torch.autograd.grad(y, [z, x, *module.parameters()], dy)
    return dict(
        zip(['y', 'dz', 'dx', *dict(module.named_parameters())], [y, *grads]),
        **dict(module.named_buffers()),
    ), y


@pytest.fixture(scope='session')
def tail_and_inputs():
    return _tail_and_inputs


@pytest.fixture(scope='session')
def path_of():
    return _path_of


@pytest.fixture(scope='session')
def run():
    return _run
