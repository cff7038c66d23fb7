"""Rules that say how a kind of residual block computes the operands of its sum."""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ra_mm.ops.paths import has_hooks


def IDENTITY(x: Tensor) -> Tensor:
    """Stand for a norm or an activation that a block does not have.

    A function, since torch.fx traces no module that is not a part of the model.
    """
    return x


class Rule(NamedTuple):
    """How a kind of block computes its sum, see :func:`.add_rule`."""

    operands: Callable[..., tuple]
    channels: Callable[[Any], int | tuple[int, ...]] = lambda block: 0
    has_shortcut: Callable[[Any], bool] = lambda block: True
    source: str = ''  # of a derived rule
    sums: int = 1


_RULES: dict[type | str, Rule] = {}


def add_rule(
    *classes: type | str,
    channels: Callable[[Any], int],
    has_shortcut: Callable[[Any], bool] = lambda block: True,
) -> Callable:
    """Register how :func:`ra_mm.convert` converts a kind of residual block.

    It decorates the function that computes the operands of the sum: a block
    ``y = act(norm(z) + shortcut)`` becomes ``y = act(attention(norm(z),
    shortcut))``. For example::

        @add_rule(MyBlock, channels=lambda block: block.conv2.out_channels)
        def my_block(block, x):
            z = block.conv2(block.act(block.norm1(block.conv1(x))))
            return z, block.norm2, block.shortcut(x), block.act

    Most blocks need none: see ``blocks`` of :func:`ra_mm.convert`. Check a rule with
    ``torch.testing.assert_close`` on the outputs of the block before and after the
    conversion.

    A rule holds for the classes and for those subclasses that inherit their
    ``forward``. A later rule for the same class replaces the earlier one.

    Args:
        *classes (type or str): Classes of blocks, or their full names such as
            'package.module.Class', which then need not be imported.
        channels (callable): Returns the number of channels of a block's output.
        has_shortcut (callable): Returns whether a block adds a shortcut at all.
            By default, all do.

    Returns:
        callable: A decorator. The decorated function takes the block and its
        input x, and returns the arguments of
        :meth:`ra_mm.layers.ResidualSum.tail`: z and a callable norm such that
        ``F(x) = norm(z)`` has the shape of z, the shortcut, and the activation
        after the sum. Where no norm ends the branch, or no activation follows,
        :func:`IDENTITY` takes its place.

    Raises:
        ValueError: If one of the classes is not an nn.Module.
    """
    for cls in classes:
        is_module = isinstance(cls, type) and issubclass(cls, nn.Module)
        if not is_module and not (isinstance(cls, str) and '.' in cls):
            raise ValueError(
                f'add_rule({cls!r}): expected a subclass of nn.Module, or its full '
                "name such as 'package.module.Class'"
            )

    def register(operands):
        for cls in classes:
            _RULES[cls] = Rule(operands, channels, has_shortcut)
        return operands

    return register


def find_rule(cls: type) -> Rule | None:
    """Return the rule for this class of blocks, if there is one."""
    cls = defining_class(cls)
    return _RULES.get(cls) or _RULES.get(full_name(cls))


def defining_class(cls: type) -> type:
    """Return the class that defines the forward pass of this one."""
    return next((c for c in cls.__mro__ if 'forward' in vars(c)), cls)


def full_name(cls: type) -> str:
    return f'{cls.__module__}.{cls.__qualname__}'


def split_norm(module: Any, x: Tensor) -> tuple[Tensor, Callable]:
    """Return z and norm such that ``module(x) = norm(z)``.

    norm is the batch norm at the end of the module, if there is one, so that the fused
    tail of reverse attention can compute it. The module may be a batch norm
    itself, a Sequential, or mmcv's ConvModule. Hooks on it see what they would
    see if it was called.
    """
    if isinstance(module, _BatchNorm):
        return x, module
    if not has_hooks(module):
        if type(module).forward is nn.Sequential.forward:
            *first, last = module
            for layer in first:
                x = layer(x)
            return split_norm(last, x)
        if full_name(type(module)) == 'mmcv.cnn.bricks.conv_module.ConvModule':
            ends_in_norm = module.order[-2:] == ('norm', 'act')
            if module.with_norm and ends_in_norm and not module.with_activation:
                return module(x, norm=False), module.norm
    return module(x), IDENTITY


def _does_nothing(module):
    """Whether it is an Identity, or a dropout or stochastic depth of probability 0."""
    return isinstance(module, nn.Identity) or getattr(module, 'p', None) == 0
