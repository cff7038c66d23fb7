"""Which weights fit which model."""

import pytest
import torch
from mmengine.model import BaseTTAModel
from torch import nn

from ra_mm.engine.strict_load import (
    find_prefix,
    load_strict,
    load_weights,
    strip_prefix,
)
from ra_mm.errors import UserError
from ra_mm.layers import SE, ReverseAttention, SimAM


def model():
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


class Detector(nn.Module):
    def __init__(self, attention=None, classes=2):
        super().__init__()
        block = nn.ModuleDict(dict(conv=nn.Conv2d(2, 2, 1)))
        if attention is not None:
            block['attention'] = attention
        self.backbone = nn.ModuleDict(dict(layer1=block))
        self.head = nn.Linear(2, classes)


RA = ReverseAttention(2)
RIVAL = SE(2)
SIMAM = SimAM(2)  # without parameters


def test_weights_that_fit_are_loaded():
    source, target = model(), model()
    weights = source.state_dict()
    bias = target[0].bias.clone()
    del weights['0.bias'], weights['1.num_batches_tracked']
    weights['1.weight'] = torch.ones(4)
    weights['2.x'] = torch.ones(1)
    weights['1.bias'] = torch.ones(3, dtype=torch.int8)
    assert load_weights(target, weights) == {
        'missing': ['0.bias'],
        'unexpected': ['2.x'],
        'size mismatch': ['1.weight (4,) instead of (3,)'],
        'integer': ['1.bias'],
    }
    assert torch.equal(target[0].weight, source[0].weight)
    assert torch.equal(target[0].bias, bias)
    assert '2.x' in weights, 'the weights of the caller are unchanged'


@pytest.mark.parametrize(
    'change, name',
    [
        (lambda w: w.pop('0.bias'), '0.bias'),
        (lambda w: w.update({'2.x': torch.ones(1)}), '2.x'),
        (lambda w: w.update({'0.bias': torch.ones(4)}), '0.bias'),
    ],
)
@pytest.mark.parametrize('scope', ['model', 'backbone'])
def test_mismatch(change, name, scope):
    weights = {f'backbone.{k}': v for k, v in model().state_dict().items()}
    own = nn.ModuleDict(dict(backbone=model()))
    load_strict(own, weights, scope)
    spoilt = model().state_dict()
    change(spoilt)
    with pytest.raises(UserError, match=f'backbone.{name}'):
        load_strict(own, {f'backbone.{k}': v for k, v in spoilt.items()}, scope)


def test_new_heads(capsys):
    """They are allowed for weights that training starts from, and nowhere else."""
    weights = Detector(RA, classes=3).state_dict()
    load_strict(Detector(RA), weights, 'backbone')
    logged = capsys.readouterr().out  # by mmengine
    assert 'head.weight' in logged and 'backbone.' not in logged
    with pytest.raises(UserError, match='head.weight'):
        load_strict(Detector(RA), weights)


@pytest.mark.parametrize('scope', ['model', 'backbone'])
def test_nothing_in_common(scope):
    with pytest.raises(UserError, match='backbone.*1 unexpected'):
        load_strict(Detector(RA), {'a': torch.ones(1)}, scope)


@pytest.mark.parametrize(
    'attention, options, fits',
    [
        (RA, dict(scope='model'), True),
        (RA, dict(scope='model', allow_plain=False), False),
        (RA, dict(scope='backbone'), True),
        (RIVAL, dict(scope='model'), False),
        (RIVAL, dict(scope='backbone'), True),
        (SIMAM, dict(scope='model'), False),
        (SIMAM, dict(scope='backbone'), True),
    ],
)
def test_plain_weights(attention, options, fits):
    plain, own = Detector(), Detector(attention)
    if fits:
        load_strict(own, plain.state_dict(), **options)
        assert torch.equal(own.head.weight, plain.head.weight)
    else:
        with pytest.raises(UserError, match='attention'):
            load_strict(own, plain.state_dict(), **options)


def test_attention_of_the_plain_model():
    """Only a ResidualSum may be absent, whatever its name is."""
    own = Detector(RA)
    own.backbone['attention'] = nn.Linear(2, 2)  # as in CSPNeXt
    load_strict(own, {k: v for k, v in own.state_dict().items() if 'gamma' not in k})
    with pytest.raises(UserError, match=r'2 missing \(backbone.attention.weight'):
        load_strict(own, Detector().state_dict())


@pytest.mark.parametrize('scope', ['model', 'backbone'])
@pytest.mark.parametrize('own', [None, RIVAL])
@pytest.mark.parametrize('trained', [RA, SIMAM])
def test_weights_of_another_attention(own, trained, scope):
    with pytest.raises(UserError, match='attention'):
        load_strict(Detector(own), Detector(trained).state_dict(), scope)


def test_wrappers():
    """DDP's prefix in the weights, and a model wrapped for test-time augmentation."""

    class TTA(BaseTTAModel):
        def merge_preds(self, data_samples_list):
            pass

    class Model(nn.Linear):
        test_step = None

    source, target = Model(2, 3), Model(2, 3)
    for prefix in ('module.', '_orig_mod.', 'model.module.'):
        torch.nn.init.zeros_(target.weight)
        weights = {f'{prefix}{k}': v for k, v in source.state_dict().items()}
        load_strict(TTA(target), weights)
        assert torch.equal(target.weight, source.weight)


@pytest.mark.parametrize('prefix', ['backbone', 'backbone.'])
def test_prefix(prefix):
    assert strip_prefix({'backbone.a': 1, 'backbones.b': 2}, prefix) == {'a': 1}


@pytest.mark.parametrize(
    'prefixes, expected',
    [
        ([''], None),
        (['backbone.'], 'backbone.'),
        (['neck.', 'module.backbone.'], 'module.backbone.'),
        (['other_'], None),
        (['module.encoder_q.'], 'module.encoder_q.'),
    ],
)
def test_prefix_of_a_model(prefixes, expected):
    """With which most of its weights are found: a neck has some of the same names."""
    names = list(model().state_dict())
    keys = {f'{prefixes[0]}{name}' for name in names[:1]}
    keys |= {f'{prefixes[-1]}{name}' for name in names}
    assert find_prefix(names, dict.fromkeys(keys)) == expected


def test_two_models_in_a_checkpoint(capsys):
    keys = (f'{owner}.{name}' for owner in ('student', 'teacher') for name in 'abc')
    assert find_prefix('abc', dict.fromkeys(keys)) == 'student.'
    assert 'student., teacher.' in capsys.readouterr().out  # by mmengine


def test_weights_of_a_backbone_to_start_from():
    with pytest.raises(UserError, match='init_cfg'):
        load_strict(Detector(), Detector().backbone.state_dict(), 'backbone')
