"""Values of a config that are wrong before anything is built of it."""

import difflib
import logging
from collections.abc import Iterator

from mmengine.config import Config
from mmengine.registry import OPTIMIZERS

from ra_mm.validation import (
    BELOW_1,
    BOOL,
    BUILD_CFG,
    BUILD_CFG_LIST,
    BUILD_CFGS,
    DICT,
    NONE,
    POSITIVE,
    STR,
    Rule,
    check_arg,
    integer,
    list_of,
    number,
    one_of,
)

_CLIP = Rule(
    'a dict with max_norm (and norm_type) or clip_value',
    lambda v: (
        DICT.test(v)
        and not v.keys()
        - {
            'type',
            'max_norm',
            'norm_type',
            'clip_value',
            'error_if_nonfinite',
            'foreach',
        }
    ),
)
# mmengine takes 1000.0 too, of which some configs of the toolboxes make use.
_INTERVAL = Rule('a whole number >= 1', lambda v: number(1).test(v) and v == int(v))
_PREPROCESSOR = {
    'data_preprocessor': NONE | DICT,
    'data_preprocessor.mean': NONE | list_of(number()),
    'data_preprocessor.std': NONE | list_of(POSITIVE),
}
_ALWAYS = {
    'model': BUILD_CFG,
    'model.backbone': BUILD_CFG,
    **_PREPROCESSOR,
    **{f'model.{path}': kind for path, kind in _PREPROCESSOR.items()},
    'default_scope': NONE | STR,
    'default_hooks': NONE | DICT,
    'default_hooks.checkpoint.interval': one_of(-1) | integer(1),
    'custom_hooks': NONE | BUILD_CFG_LIST,
    'visualizer': NONE | DICT,
    'env_cfg': DICT,
    'randomness': DICT,
    'randomness.seed': NONE | integer(0, 2**32 - 1),
    'log_level': one_of(*logging._nameToLevel) | integer(0),
    'load_from': NONE | STR,
    'resume': BOOL,
    'work_dir': NONE | STR,
}
_TRAINING = {
    'train_cfg.by_epoch': BOOL,
    'train_cfg.max_epochs': integer(1),
    'train_cfg.max_iters': integer(1),
    'train_cfg.val_begin': integer(0),
    'train_cfg.val_interval': _INTERVAL,
    'optim_wrapper': NONE | DICT,
    'optim_wrapper.accumulative_counts': integer(1),
    'optim_wrapper.clip_grad': NONE | _CLIP,
    'optim_wrapper.clip_grad.max_norm': POSITIVE,
    'optim_wrapper.optimizer': BUILD_CFG,
    'optim_wrapper.optimizer.lr': POSITIVE,
    'optim_wrapper.optimizer.momentum': BELOW_1,
    'optim_wrapper.optimizer.weight_decay': number(0),
    'param_scheduler': NONE | BUILD_CFGS,
    'auto_scale_lr': NONE | DICT,
    'auto_scale_lr.base_batch_size': integer(1),
    'auto_scale_lr.enable': BOOL,
}
# of each of the schedulers
_SCHEDULER = {
    'by_epoch': BOOL,
    'begin': integer(0),
    'end': integer(1),
    'gamma': POSITIVE,
    'milestones': list_of(integer(0)),
}
# with train_, val_ or test_ before it
_PART = {
    'cfg': NONE | DICT,
    'evaluator': NONE | BUILD_CFGS,
    'dataloader': NONE | DICT,
    'dataloader.batch_size': integer(1),
    'dataloader.num_workers': integer(0),
    'dataloader.persistent_workers': BOOL,
    'dataloader.pin_memory': BOOL,
    'dataloader.drop_last': BOOL,
    'dataloader.sampler': NONE | BUILD_CFG,
    'dataloader.sampler.shuffle': BOOL,
    'dataloader.batch_sampler': NONE | BUILD_CFG,
    'dataloader.dataset': BUILD_CFG,
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
    for part in ('train', 'val') if mode == 'train' else ('test',):
        kinds.update({f'{part}_{path}': kind for path, kind in _PART.items()})
    if mode == 'train':
        kinds.update(_TRAINING)
        key, schedulers = 'param_scheduler', cfg.get('param_scheduler')
        several = isinstance(schedulers, (list, tuple))
        for name in (
            [f'{key}.{i}' for i in range(len(schedulers))] if several else [key]
        ):
            kinds.update({f'{name}.{path}': k for path, k in _SCHEDULER.items()})
    for path, kind in kinds.items():
        value = _get(cfg, path)
        if value is not _ABSENT:
            try:
                check_arg(kind, **{path: value})
            except ValueError as e:
                yield str(e)

    needed = (
        ('train_cfg', 'train_dataloader', 'optim_wrapper')
        if mode == 'train'
        else ('test_cfg', 'test_dataloader', 'test_evaluator')
    )
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
        yield (
            'train_cfg says not how long to train: expected max_epochs '
            '(and by_epoch=True) or max_iters'
        )
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
                similar = difflib.get_close_matches(name, OPTIMIZERS.module_dict, 1, 0)
                yield (
                    f'optim_wrapper.optimizer.type={name!r}: there is no '
                    f'such optimizer, is {similar[0]!r} meant?'
                )
