"""The sum at the end of a residual block, which an attention replaces."""

from collections.abc import Callable

from torch import Tensor, nn


class ResidualSum(nn.Module):
    """``y = F(x) + x``, the base class of every attention in a residual block.

    A subclass overrides :meth:`forward`; it is constructed with ``channels``
    as its first argument. Only a layer with a faster implementation of the
    whole end of a block overrides :meth:`tail` as well.
    """

    def forward(self, F: Tensor, x: Tensor) -> Tensor:
        """Combine the residual branch and the shortcut.

        Args:
            F (Tensor): F(x) of shape (N, C, H, W), or of one or three spatial
                dimensions.
            x (Tensor): The shortcut, of the same shape and dtype.

        Returns:
            Tensor: y of the same shape and dtype, before the activation.
        """
        return F + x

    def tail(self, z: Tensor, norm: Callable, x: Tensor, act: Callable) -> Tensor:
        """``act(self(norm(z), x))``: a block after its last convolution.

        Args:
            z (Tensor): Output of the last convolution, of the shape of F(x).
            norm (callable): The norm after it, so that ``F(x) = norm(z)``.
            x (Tensor): The shortcut, of the same shape and dtype.
            act (callable): The activation after the sum.

        Returns:
            Tensor: The output of the block, of the same shape and dtype.
        """
        return act(self(norm(z), x))


def attention_keys(model: nn.Module) -> set[str]:
    """Return the names of all weights that belong to attentions."""
    found = ((n, m) for n, m in model.named_modules() if isinstance(m, ResidualSum))
    return {f'{name}.{key}' for name, module in found for key in module.state_dict()}


def excuse_attention(model: nn.Module, missing: list[str]) -> list[str]:
    """Return the missing weights without those of attentions, if all of these are."""
    keys = attention_keys(model)
    needed = keys & {name for name, _ in model.named_parameters()} or keys
    return [k for k in missing if k not in keys] if needed <= {*missing} else missing
