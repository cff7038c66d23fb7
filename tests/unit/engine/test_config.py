"""Where the configs are, and the toolbox that a config is for."""

from mmdet.models import FasterRCNN
from mmengine.config import Config

from ra_mm.engine import config
from ra_mm.engine.config import find_configs, get_toolbox


def test_configs_of_a_wheel_come_first(tmp_path, monkeypatch):
    monkeypatch.setattr(config, '__file__', str(tmp_path / 'ra_mm/engine/config.py'))
    assert find_configs() == tmp_path / 'configs'
    packaged = tmp_path / 'ra_mm/.mim/configs'
    packaged.mkdir(parents=True)
    assert find_configs() == packaged


def test_toolbox_of_a_derived_class():
    class Ours(FasterRCNN):
        pass

    assert get_toolbox(Config(dict(model=dict(type=Ours)))) == 'mmdet'


def test_toolbox():
    assert get_toolbox(Config(dict(default_scope='mmseg'))) == 'mmseg'
    assert get_toolbox(Config(dict(default_scope='mmpose'))) is None
    assert get_toolbox(Config(dict(model=dict(type='ResNet')))) is None
