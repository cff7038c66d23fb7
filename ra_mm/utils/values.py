"""Values of a config that are wrong before anything is built of it."""
import difflib
import logging
from typing import Iterator

from mmengine.config import Config
from mmengine.registry import OPTIMIZERS

from .expect import (ABOVE_0, BELOW_1, DICT, NOTHING, SWITCH, TEXT, TYPED,
                     TYPED_LIST, TYPEDS, Kind, expect, list_of, number, one_of,
                     whole)

_CLIP = Kind(
    'a dict with max_norm (and norm_type) or clip_value',
    lambda v: DICT.test(v) and not v.keys() - {
        'type', 'max_norm', 'norm_type', 'clip_value', 'error_if_nonfinite',
        'foreach'
    })
# mmengine takes 1000.0 too, of which some configs of the toolboxes make use.
_INTERVAL = Kind('a whole number >= 1',
                 lambda v: number(1).test(v) and v == int(v))
_PREPROCESSOR = {
    'data_preprocessor': NOTHING | DICT,
    'data_preprocessor.mean': NOTHING | list_of(number()),
    'data_preprocessor.std': NOTHING | list_of(ABOVE_0),
}
_ALWAYS = {
    'model': TYPED,
    'model.backbone': TYPED,
    **_PREPROCESSOR,
    **{f'model.{path}': kind
       for path, kind in _PREPROCESSOR.items()},
    'default_scope': NOTHING | TEXT,
    'default_hooks': NOTHING | DICT,
    'default_hooks.checkpoint.interval': one_of(-1) | whole(1),
    'custom_hooks': NOTHING | TYPED_LIST,
    'visualizer': NOTHING | DICT,
    'env_cfg': DICT,
    'randomness': DICT,
    'randomness.seed': NOTHING | whole(0, 2**32 - 1),
    'log_level': one_of(*logging._nameToLevel) | whole(0),
    'load_from': NOTHING | TEXT,
    'resume': SWITCH,
    'work_dir': NOTHING | TEXT,
}
_TRAINING = {
    'train_cfg.by_epoch': SWITCH,
    'train_cfg.max_epochs': whole(1),
    'train_cfg.max_iters': whole(1),
    'train_cfg.val_begin': whole(0),
    'train_cfg.val_interval': _INTERVAL,
    'optim_wrapper': NOTHING | DICT,
    'optim_wrapper.accumulative_counts': whole(1),
    'optim_wrapper.clip_grad': NOTHING | _CLIP,
    'optim_wrapper.clip_grad.max_norm': ABOVE_0,
    'optim_wrapper.optimizer': TYPED,
    'optim_wrapper.optimizer.lr': ABOVE_0,
    'optim_wrapper.optimizer.momentum': BELOW_1,
    'optim_wrapper.optimizer.weight_decay': number(0),
    'param_scheduler': NOTHING | TYPEDS,
    'auto_scale_lr': NOTHING | DICT,
    'auto_scale_lr.base_batch_size': whole(1),
    'auto_scale_lr.enable': SWITCH,
}
# of each of the schedulers
_SCHEDULER = {
    'by_epoch': SWITCH,
    'begin': whole(0),
    'end': whole(1),
    'gamma': ABOVE_0,
    'milestones': list_of(whole(0)),
}
# with train_, val_ or test_ before it
_PART = {
    'cfg': NOTHING | DICT,
    'evaluator': NOTHING | TYPEDS,
    'dataloader': NOTHING | DICT,
    'dataloader.batch_size': whole(1),
    'dataloader.num_workers': whole(0),
    'dataloader.persistent_workers': SWITCH,
    'dataloader.pin_memory': SWITCH,
    'dataloader.drop_last': SWITCH,
    'dataloader.sampler': NOTHING | TYPED,
    'dataloader.sampler.shuffle': SWITCH,
    'dataloader.batch_sampler': NOTHING | TYPED,
    'dataloader.dataset': TYPED,
}
_ABSENT = object()


def wrong_values(cfg: Config, mode: str) -> Iterator[str]:
    """What is of the wrong type, out of range or not there.

    Only of what is usual in a config, and would otherwise be used as it is,
    or be refused where nobody can see why. Classes look at their arguments
    themselves.

    Args:
        cfg (Config): The whole config.
        mode (str): 'train' (looks at validation too) or 'test'.

    Yields:
        str: For each such value its path in the config, and what is expected.
    """
    kinds = dict(_ALWAYS)
    for part in ('train', 'val') if mode == 'train' else ('test', ):
        kinds.update({f'{part}_{path}': kind for path, kind in _PART.items()})
    if mode == 'train':
        kinds.update(_TRAINING)
        key, schedulers = 'param_scheduler', cfg.get('param_scheduler')
        several = isinstance(schedulers, (list, tuple))
        for name in ([f'{key}.{i}' for i in range(len(schedulers))]
                     if several else [key]):
            kinds.update({f'{name}.{path}': k
                          for path, k in _SCHEDULER.items()})
    for path, kind in kinds.items():
        value = _get(cfg, path)
        if value is not _ABSENT:
            try:
                expect(kind, **{path: value})
            except ValueError as e:
                yield str(e)

    needed = (
        ('train_cfg', 'train_dataloader', 'optim_wrapper') if mode == 'train'
        else ('test_cfg', 'test_dataloader', 'test_evaluator'))
    for name in needed:
        if cfg.get(name) is None:
            yield f'the config has no {name}'
    if mode == 'train':
        yield from _training(cfg)


def _get(node, path):
    for name in path.split('.'):
        if isinstance(node, (list, tuple)) and name.isdigit():
            node = node[int(name)]
        elif isinstance(node, (dict, Config)) and name in node:
            node = node[name]
        else:
            return _ABSENT
    return node


def _training(cfg) -> Iterator[str]:
    loop = cfg.get('train_cfg')
    lengths = {'max_epochs', 'max_iters'}
    if isinstance(loop, dict) and not loop.keys() & lengths:
        yield ('train_cfg says not how long to train: expected max_epochs '
               '(and by_epoch=True) or max_iters')
    wrapper = cfg.get('optim_wrapper')
    if not isinstance(wrapper, dict) or 'constructor' in wrapper:
        return
    if 'optimizer' not in wrapper:
        yield "optim_wrapper has no optimizer: expected a dict with a 'type'"
        return
    name = _get(cfg, 'optim_wrapper.optimizer.type')
    scope = cfg.get('default_scope') or 'mmengine'
    if isinstance(name, str) and isinstance(scope, str):
        with OPTIMIZERS.switch_scope_and_registry(scope) as registry:
            if registry.get(name) is None:
                similar = difflib.get_close_matches(
                    name, OPTIMIZERS.module_dict, 1, 0)
                yield (f'optim_wrapper.optimizer.type={name!r}: there is no '
                       f'such optimizer, is {similar[0]!r} meant?')
