"""Configs to spoil, and the message that the checks have about them."""

import copy
import json

import pytest
from mmengine.config import Config

from ra_mm.checks import rules
from ra_mm.checks.context import Context
from ra_mm.checks.finding import Findings
from ra_mm.checks.rules import check_config
from ra_mm.errors import UserError


@pytest.fixture(scope='module')
def original_cfg(configs):
    return Config.fromfile(configs / 'detector.py')


@pytest.fixture
def cfg(original_cfg, tmp_path):
    """A copy of detector.py, as load_config would return it."""
    cfg = copy.deepcopy(original_cfg)
    cfg.launcher, cfg.work_dir = 'none', str(tmp_path / 'work')
    cfg.param_scheduler[1].end = 1  # as long as the training
    return cfg


@pytest.fixture
def load(configs, tmp_path):
    """Load another one of the small configs by name, or any file."""

    def load(name):
        path = configs / f'{name}.py'
        cfg = Config.fromfile(path if path.exists() else name)
        cfg.launcher, cfg.work_dir = 'none', str(tmp_path / 'work')
        return cfg

    return load


@pytest.fixture
def found(load):
    """Change one of the small configs; return (errors, warnings) about its parts."""

    def run(name, options=None, mode='train'):
        cfg, options = load(name), dict(options or {})
        # The small configs train for less than their schedules.
        cfg.param_scheduler = options.pop('param_scheduler', [])
        cfg.pop('auto_scale_lr', None)
        cfg.merge_from_dict(options)
        context, found = Context(cfg, mode), Findings()
        modules = 'schedule' if mode == 'train' else ''
        for rule in rules.get_rules('context', f'{rules.DATA} {modules}'):
            found += rule(context)
        return found.errors, found.warnings

    return run


@pytest.fixture(scope='session')
def check():
    """Check a config without errors, and return the warnings."""

    def run(cfg, mode='train', **kwargs):
        found = check_config(cfg, mode, **kwargs)
        found.raise_errors()
        return found.warnings

    return run


@pytest.fixture(scope='session')
def refused(check):
    """Check a config that has problems, and return the message."""

    def run(cfg, mode='train', **kwargs):
        with pytest.raises(UserError) as error:
            check(cfg, mode, **kwargs)
        return str(error.value)

    return run


@pytest.fixture(scope='session')
def installed():
    """The path of a config that a toolbox ships."""

    def path(toolbox, config):
        return f'{__import__(toolbox).__path__[0]}/.mim/configs/{config}'

    return path


@pytest.fixture
def coco(shapes):
    return json.loads((shapes / 'annotations/train.json').read_text())


@pytest.fixture
def with_annotations(cfg, tmp_path):
    """The config with this content, or these bytes, as annotations to train on."""

    def put(content):
        path = tmp_path / 'spoilt.json'
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        path.write_bytes(data)
        cfg.train_dataloader.dataset.ann_file = str(path)
        return cfg

    return put
