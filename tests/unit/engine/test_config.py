"""The toolbox that a config is for."""

from mmdet.models import FasterRCNN
from mmengine.config import Config

from ra_mm.engine.config import get_toolbox


class Ours(FasterRCNN):
    pass


def test_toolbox():
    assert get_toolbox(Config(dict(model=dict(type=Ours)))) == 'mmdet'
    assert get_toolbox(Config(dict(default_scope='mmseg'))) == 'mmseg'
    assert get_toolbox(Config(dict(default_scope='mmpose'))) is None
    assert get_toolbox(Config(dict(model=dict(type='ResNet')))) is None
