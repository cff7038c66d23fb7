"""Checkpoints that must fit the model, where mmengine only warns."""
import re

from mmengine.hooks import Hook
from mmengine.runner.checkpoint import load_state_dict

from .cli import some, warn


class StrictLoadHook(Hook):
    """Stop when a checkpoint does not fit the model that it is loaded into.

    Testing and resuming need the whole model. Training from ``load_from``
    needs the backbone; neck and heads may be new, for other classes. The
    attention may be absent, as a whole, from a checkpoint to train from. RA
    may also be absent from one to test, with a warning, since with gamma = 0
    the model computes what the plain one computes.

    Args:
        whole (bool): Whether the whole model is needed, or the backbone.

    Raises:
        ValueError: While the checkpoint is loaded, if entries are missing, in
            excess or of another shape.
    """
    priority = 'LOWEST'  # behind hooks that rearrange the checkpoint

    def __init__(self, whole: bool) -> None:
        self.whole = whole

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        weights = {
            re.sub(r'^module\.', '', key): value
            for key, value in checkpoint.get('state_dict', checkpoint).items()
        }
        own = [
            key for key in getattr(runner.model, 'module',
                                   runner.model).state_dict()
            if not key.endswith('num_batches_tracked')
        ]
        found = _mismatches(runner.model, weights)
        attention = {key for key in own if '.attention.' in key}
        neutral = all(key.endswith(('.gamma', '.temp')) for key in attention)
        if (attention and not attention & weights.keys()
                and weights.keys() & set(own)
                and (neutral or not self.whole)):
            found['missing'] = [
                key for key in found['missing'] if key not in attention
            ]
            if self.whole:
                warn('the checkpoint has no reverse attention: with gamma = 0 '
                     'the model computes what the plain one computes')
        if not self.whole and weights.keys() & set(own):
            found = {
                kind: [k for k in keys if k.startswith('backbone.')]
                for kind, keys in found.items()
            }
        if any(found.values()):
            listed = '; '.join(f'{len(keys)} {kind} {some(keys, 3)}'
                               for kind, keys in found.items() if keys)
            raise ValueError('the checkpoint does not fit the model, '
                             f'{_reason(found, own)}: {listed}')


def _mismatches(model, weights):
    """What mmengine finds when it loads the weights."""
    try:
        load_state_dict(model, weights, strict=True)
        text = ''
    except RuntimeError as e:
        text = str(e)
    found = {'of another shape': re.findall(r'size mismatch for (\S+):', text)}
    for kind, words in (('missing', 'missing keys'), ('in excess',
                                                      'unexpected key')):
        keys = re.findall(rf'{words} in source state_dict: (.*)', text)
        found[kind] = keys[0].split(', ') if keys else []
    if text and not any(found.values()):
        raise ValueError(text)
    return found


def _reason(found, own):
    keys = [key for kind in found.values() for key in kind]
    if len(found['missing']) >= len(own):
        return 'it is of another kind of model'
    if any('.attention.' in key for key in found['in excess']):
        return 'it was trained with an attention that the config lacks'
    if any(key.startswith('backbone.') for key in keys):
        return 'its backbone is another one (depth, stem, width, attention)'
    return 'it was trained with another config or for other classes'
