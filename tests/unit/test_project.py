"""Numbers that more than one file has to state are the same in each."""

import re
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import ra_mm

tomllib = pytest.importorskip('tomllib')  # Python 3.11

REPO = Path(__file__).parents[2]
PROJECT = tomllib.loads((REPO / 'pyproject.toml').read_text())['project']
EXTRAS = PROJECT['optional-dependencies']


def test_version():
    citation = yaml.safe_load((REPO / 'CITATION.cff').read_text())
    assert citation['version'] == ra_mm.__version__
    assert f'## {ra_mm.__version__}' in (REPO / 'CHANGELOG.md').read_text()


def test_ruff_of_pre_commit():
    hooks = (REPO / '.pre-commit-config.yaml').read_text()
    (pin,) = {*re.findall(r'\bruff==[\d.]+', hooks)}
    assert pin in EXTRAS['lint']


STACKS = sorted(path.stem for path in (REPO / 'requirements').glob('*.txt'))
STACKS.remove('build')


@pytest.mark.parametrize('stack', STACKS)
def test_pins_are_in_the_allowed_ranges(stack):
    lines = (REPO / f'requirements/{stack}.txt').read_text()
    pins = dict(re.findall(r'^([\w-]+)==([\w.]+)', lines, re.M))
    for text in PROJECT['dependencies'] + EXTRAS[stack]:
        need = Requirement(text)
        if need.specifier:
            assert need.specifier.contains(pins[need.name]), text
