"""How far each path of the residual tail is from float64, on one device."""

import copy
import itertools
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ra_mm.layers import ReverseAttention
from ra_mm.ops import PATHS, force_path

DTYPES = dict(fp32=torch.float32, bf16=torch.bfloat16, fp16=torch.float16)
LAYOUTS = dict(nchw=torch.contiguous_format, nhwc=torch.channels_last)


def error_norm(a: Tensor, exact: Tensor) -> float:
    """The norm of the error over that of the exact value; NaN where a has NaN."""
    a, exact = a.detach().double(), exact.detach().to(a.device, torch.float64)
    tiny = torch.finfo(torch.float64).tiny
    return ((a - exact).norm() / exact.norm().clamp(min=tiny)).item()


class RandomTail(nn.Module):
    """A residual tail whose weights and statistics are all random.

    Args:
        channels (int): The channels C.
        device (str): Where to put it.
        trains_bn (bool): Whether batch norm uses the batch's statistics.
    """

    def __init__(self, channels: int, device: str, trains_bn: bool) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(0)
        self.norm = nn.BatchNorm2d(channels).train(trains_bn)
        self.attention = ReverseAttention(channels)
        self.act = nn.ReLU(inplace=True)
        for p in self.parameters():
            p.data.normal_(generator=g)
        self.norm.running_mean.normal_(generator=g)
        self.norm.running_var.uniform_(0.5, 2, generator=g)
        self.attention.gate.temp.fill_(0.7)
        self.to(device)

    def outputs(self, path: str, z: Tensor, x: Tensor, dy: Tensor) -> dict[str, Tensor]:
        """Return y and all gradients as the path computes them."""
        z, x = (t.detach().requires_grad_() for t in (z, x))
        parameters = dict(dw=self.norm.weight, db=self.norm.bias)
        parameters['dgamma'] = self.attention.gate.gamma
        with force_path(path):
            y = self.attention.tail(z, self.norm, x, self.act)
            grads = torch.autograd.grad(y, [z, x, *parameters.values()], dy)
        return dict(zip(['y', 'dz', 'dx', *parameters], [y, *grads]))


def without_switches(tail: RandomTail, z: Tensor, x: Tensor, dy: Tensor) -> Tensor:
    """Set dy to 0 where the exact sum is so small that rounding may change its sign.

    There the gradient of the ReLU would be all wrong or all right by chance.
    """
    exact = copy.deepcopy(tail).double()
    exact.act = nn.Identity()
    y = exact.outputs('reference', z.double(), x.double(), dy.double())['y'].detach()
    return dy * (y.abs() > 0.1 * y.std())


def tail_errors(device: str, shape: tuple[int, int, int, int]) -> Iterator[dict]:
    """Compare each path with the reference path in float64.

    z, x and dy are rounded to the dtype first, and dy is 0 where rounding may
    switch the ReLU, so that the errors are those of the computation alone. In
    16 bit, batch norm and gamma stay float32, as under autocast.

    Args:
        device (str): 'cpu' or 'cuda'.
        shape (tuple): (N, C, H, W).

    Yields:
        dict: ``path``, ``dtype``, ``layout``, ``batch_norm`` ('training' or
        'frozen'), ``shape`` and ``errors``: of y and of each gradient, a dict
        with the :func:`error_norm` as ``norm``.
    """
    for dtype, layout, trains_bn in itertools.product(DTYPES, LAYOUTS, (True, False)):
        g = torch.Generator().manual_seed(1)
        place = dict(dtype=DTYPES[dtype], memory_format=LAYOUTS[layout], device=device)
        z, x, dy = (torch.randn(shape, generator=g).to(**place) for _ in range(3))
        tail = RandomTail(shape[1], device, trains_bn)
        dy = without_switches(tail, z, x, dy)
        doubles = [t.double() for t in (z, x, dy)]
        exact = copy.deepcopy(tail).double().outputs('reference', *doubles)
        for path in PATHS:
            found = copy.deepcopy(tail).outputs(path, z, x, dy)
            yield dict(
                path=path,
                dtype=dtype,
                layout=layout,
                batch_norm='training' if trains_bn else 'frozen',
                shape=list(shape),
                errors={k: dict(norm=error_norm(found[k], exact[k])) for k in exact},
            )
