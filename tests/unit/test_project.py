"""Numbers that more than one file has to state are the same in each."""

import ast
import re
import sys
from importlib import metadata
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


def test_every_import_is_declared():
    """By ra_mm or by one of its extras."""
    lists = [PROJECT['dependencies'], *EXTRAS.values()]
    declared = {Requirement(text).name.lower() for texts in lists for text in texts}
    declared |= {'mmcv', 'mmcv-lite'}  # the user installs one of them
    distributions = metadata.packages_distributions()
    undeclared = {}
    for folder in ('ra_mm', 'tools', 'benchmarks', 'examples', 'reproduction', 'tests'):
        for path in (REPO / folder).rglob('*.py'):
            for name in find_imports(path) & distributions.keys():
                if not declared & {d.lower() for d in distributions[name]}:
                    undeclared[name] = str(path.relative_to(REPO))
    assert not undeclared


def find_imports(path):
    """The packages that a file imports absolutely, but for the standard library."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition('.')[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module.partition('.')[0])
    return names - sys.stdlib_module_names - {'ra_mm'}


def test_address_of_the_repository():
    """It is stated in pyproject.toml, and the commands to install have the same one."""
    url = PROJECT['urls']['Repository']
    assert all(other.startswith(url) for other in PROJECT['urls'].values())
    for page in ('README.md', 'docs/install.md'):
        assert f'git+{url} ' in (REPO / page).read_text().replace('\n', ' ')
