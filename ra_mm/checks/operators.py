"""Operators of mmcv that a model needs and the stand-in for them lacks."""

from collections import defaultdict

from torch import nn

from ra_mm.errors import UserError
from ra_mm.mmcv_ops.stand_in import is_in_use

# Files of mmcv.ops whose modules run on compiled operators alone.
COMPILED_ALONE = (
    'active_rotated_filter border_align carafe deform_roi_pool masked_conv prroi_pool '
    'psa_mask riroi_align_rotated roi_align_rotated rotated_feature_align'
).split()


def check_model(model: nn.Module) -> None:
    """Raise a :class:`.UserError` if a model lacks an operator, also of a validation."""
    if not is_in_use():
        return
    places = defaultdict(list)
    for name, module in model.named_modules():
        if operator := _lacking(module):
            places[operator].append(f'{name} ({type(module).__name__})')
    if places:
        lacking = '; '.join(f'{k}, in {", ".join(at[:3])}' for k, at in places.items())
        text = f"the stand-in for mmcv's operators lacks {lacking}: install an mmcv"
        advice = '(`make OPS=compiled`, or a wheel: see docs/install.md)'
        raise UserError(f'{text} with compiled operators {advice}')


def _lacking(module):
    """The operator of mmcv that a module calls and the stand-in lacks, or None."""
    for kind in type(module).__mro__:
        package, _, file = kind.__module__.rpartition('.')
        if package == 'mmcv.ops' and file in COMPILED_ALONE:
            return file
        if package == 'mmcv.ops' and file == 'roi_align' and module.pool_mode == 'max':
            return "roi_align with pool_mode='max'"
        if package.startswith('mmrotate'):
            return 'nms_rotated'
    samplers = (getattr(module, name, None) for name in ('sampler', 'bbox_sampler'))
    if any(type(sampler).__name__ == 'ScoreHLRSampler' for sampler in samplers):
        return 'nms_match'
    return None
