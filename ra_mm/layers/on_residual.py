"""An adapter for attentions that map a feature map to one of the same shape."""

import pkgutil
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from .residual_sum import ResidualSum


class OnResidual(ResidualSum):
    """``y = A(F(x)) + x`` for an attention A from another library or your own.

    Args:
        channels (int): Channels C of F(x) and of x.
        layer (callable or str): Called with the channels, it returns A; or its
            full name, such as 'timm.layers.EcaModule'.
        **kwargs: Further arguments of ``layer``.

    Raises:
        ValueError: If there is no such layer, or it returns no nn.Module. In a
            forward pass, if A changes the shape of F(x).
    """

    def __init__(
        self, channels: int, layer: str | Callable[..., nn.Module], **kwargs: Any
    ) -> None:
        super().__init__()
        build = _find(layer) if isinstance(layer, str) else layer
        self.layer = build(channels, **kwargs)
        if not isinstance(self.layer, nn.Module):
            raise ValueError(
                f'layer={layer!r} returned {self.layer!r}, not an nn.Module'
            )

    def forward(self, F: Tensor, x: Tensor) -> Tensor:
        A = self.layer(F)
        if A.shape != F.shape:
            raise ValueError(
                f'{type(self.layer).__name__} changed F(x) of shape {tuple(F.shape)} '
                f'to {tuple(A.shape)}: expected an attention that returns the weighted '
                'F(x), and not its weights'
            )
        return A + x


def _find(name: str) -> Callable[..., nn.Module]:
    try:
        return pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError) as e:
        raise ValueError(f'layer={name!r}: {e}') from e
