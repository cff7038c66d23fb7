"""The residual block whose sum is an attention.

The way of x through a block in training, with the files that have the steps::

    AttentionBlock.forward(x)                            this file
    |- operands(x) -> z, norm, shortcut, act             rules.py, rule_source.py
    `- attention.tail(z, norm, shortcut, act)            ra_mm/layers/
       |- other attentions:
       |     act(attention(norm(z), shortcut))           residual_sum.py
       `- ReverseAttention, by resolve_path():           ra_mm/ops/paths.py
          |- 'reference'
          |     act(attention(norm(z), shortcut))        reverse_attention.py, m_grn.py
          |- 'fused_sum'
          |     fused_sum(norm(z), shortcut, scale)      ra_mm/ops/residual_tail.py
          `- 'fused'
                bn_tail(z, norm, shortcut, scale)        ra_mm/ops/residual_tail.py
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import torch.utils.checkpoint as cp
from torch import Tensor, nn

from ra_mm.layers import ResidualSum

from .rule_source import compile_rule
from .rules import Rule, find_rule, full_name


class AttentionBlock:
    """Mixin that replaces the sum of a residual block with its ``attention``.

    All attention blocks have this forward pass: the rule computes the residual
    branch up to the last norm, the shortcut and the activation, and
    ``attention.tail`` does the rest, see :class:`ra_mm.layers.ResidualSum`.

    A converted block is an instance of a subclass of this mixin and of its
    own class, so that ``isinstance`` and the names in the state dict stay as
    they are; ``type(block) is BasicBlock`` is no longer true.
    """

    attention: ResidualSum
    operands: Callable[..., tuple]
    plain_class: type[nn.Module]
    source: str  # of a derived rule

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        def inner_forward(*args, **kwargs):
            z, norm, shortcut, act = self.operands(*args, **kwargs)
            if type(z) is Tensor and z.shape != shortcut.shape:
                raise ValueError(
                    f'{full_name(self.plain_class)}: F(x) of shape {tuple(z.shape)} '
                    f'does not fit the shortcut of shape {tuple(shortcut.shape)}. The '
                    'rule of this class has to apply what the block does to its '
                    'shortcut, see ra_mm.conversion.add_rule'
                )
            return self.attention.tail(z, norm, shortcut, act)

        # OpenMMLab's blocks checkpoint themselves; those of others are checkpointed.
        x, *_ = *args, *kwargs.values()
        if getattr(self, 'with_cp', False) and x.requires_grad:
            return cp.checkpoint(inner_forward, *args, use_reentrant=False, **kwargs)
        return inner_forward(*args, **kwargs)

    def __reduce_ex__(self, protocol: Any) -> tuple:
        """Pickle by the name of the original class, since the subclass is made at run time."""
        reduced = super().__reduce_ex__(max(protocol, 2))
        return _new_block, (self.plain_class, self.source), *reduced[2:]


def used_attribute(block: nn.Module) -> str:
    """Return an attribute of the block that an attention block needs, or ''."""
    own = vars(block).keys() | dict(block.named_children()).keys()
    needed = ('attention', 'operands', 'plain_class', 'source', 'forward')
    return next((name for name in needed if name in own), '')


def attention_names(sums: int) -> list[str]:
    """Return the names of a block's attentions: its last sum's is 'attention'."""
    return [*(f'attention_{i}' for i in range(1, sums)), 'attention']


def insert_attentions(
    block: nn.Module, rule: Rule, attentions: Iterable[ResidualSum]
) -> None:
    """Turn a block into an :class:`AttentionBlock`, by its rule."""
    for name, attention in zip(attention_names(rule.sums), attentions):
        setattr(block, name, attention)
    cls: Any = type(block)  # mypy takes no nn.Module for hashable
    block.__class__ = _attention_class(cls, rule.operands, rule.source)


@functools.cache
def _attention_class(cls: Any, operands: Callable, source: str) -> Any:
    return type(
        f'Attention{cls.__name__}',
        (AttentionBlock, cls),
        dict(
            __doc__=f'{cls.__name__} with an attention as its sum.',
            __module__=cls.__module__,
            operands=operands,
            plain_class=cls,
            source=source,
        ),
    )


def _new_block(cls: Any, source: str = '') -> nn.Module:
    """Create an attention block without its state, for copy and pickle."""
    rule = compile_rule(source) if source else find_rule(cls)
    if rule is None:
        raise ValueError(
            f'{full_name(cls)} has no rule here: add the one that the pickled model '
            'was converted with, see ra_mm.conversion.add_rule'
        )
    block_class = _attention_class(cls, rule.operands, rule.source)
    return block_class.__new__(block_class)
