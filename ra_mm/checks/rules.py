"""All rules, and the functions that apply them.

A rule is a function ``check_...`` in the module of its subject, which yields each
:class:`.Finding`. Its first argument says what it is about: ``context``, a config and the
files that it names, before anything is built; or ``part``, samples of a built dataset.
"""

import functools
import os
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from inspect import signature
from typing import Any

from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope

from ra_mm.checks.checkpoints import check_checkpoints
from ra_mm.checks.context import Context
from ra_mm.checks.finding import Findings
from ra_mm.checks.labels import check_splits
from ra_mm.checks.sample import Part
from ra_mm.checks.values import check_values
from ra_mm.engine.config import get_value
from ra_mm.errors import translate_errors

# The modules whose rules apply to runs, and those whose rules apply to their data.
RUNS = {'train': 'schedule devices checkpoints', 'test': 'devices checkpoints'}
DATA = 'files annotations boxes labels classes ignore_index evaluation images masks'


def get_rules(subject: str, modules: str = DATA) -> list[Callable]:
    """Return the functions ``check_...(subject, ...)`` of modules, in their order."""
    rules = []
    for module in modules.split():
        for name, rule in vars(import_module(f'ra_mm.checks.{module}')).items():
            if name.startswith('check_') and subject in signature(rule).parameters:
                rules.append(rule)
    return rules


def check_config(cfg: Config, mode: str, resume: str | None = None) -> Findings:
    """Check a config, its data and checkpoints, and the devices of this machine.

    Only the first process of each machine checks. Missing weights are downloaded to
    MMEngine's cache if everything else is in order.

    Args:
        cfg: The complete config, with command line options merged.
        mode: 'train', 'test' or 'data', see :class:`.Context`.
        resume: The value of ``--resume``, see :class:`.Context`.
    """
    found = Findings()
    if int(os.environ.get('LOCAL_RANK', 0)) != 0:
        return found
    context, of_run = Context(cfg, mode, resume), RUNS.get(mode, '')
    rules = get_rules('context', f'{of_run} {DATA}')
    downloads = [functools.partial(check_checkpoints, is_remote=True)]
    # The other rules rely on the values, and nothing is downloaded for a run that
    # cannot start.
    for stage in ([check_values], rules, downloads if of_run else ()):
        for rule in stage:
            found += rule(context)
        if found.errors:
            break
    return found


def build_datasets(cfg: Config, parts: Iterable[str]) -> dict[str, Any]:
    """Build the datasets of a config, by their key in it.

    Raises:
        UserError: If one cannot be built.
    """
    init_default_scope(cfg.get('default_scope') or 'mmengine')
    built = {}
    for part in parts:
        key = f'{part}_dataloader.dataset'
        if (node := get_value(cfg, key)) is not None:
            with translate_errors(f'{key} cannot be built'):
                built[key] = DATASETS.build(node)
                if hasattr(built[key], 'full_init'):
                    built[key].full_init()
    return built


def check_samples(parts: Sequence[Part]) -> Findings:
    """Check loaded samples, see :func:`.load_parts`."""
    found = Findings()
    for part in parts:
        for rule in get_rules('part'):
            for finding in rule(part):
                found.append(finding._replace(text=f'{part.key}: {finding.text}'))
    found += check_splits(parts)
    return found
