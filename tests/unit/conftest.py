"""Distributions that are made up."""

import sys

import pytest


@pytest.fixture
def add_distribution(monkeypatch, tmp_path):
    """Make ``importlib`` find distributions and their packages in a folder alone."""
    site = tmp_path / 'site'
    site.mkdir()
    monkeypatch.setattr(sys, 'path', [str(site)])
    for package in ('mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain', 'mmcv.ops'):
        monkeypatch.delitem(sys.modules, package, raising=False)

    def add(name, version, package='mmcv'):
        info = site / f'{name.replace("-", "_")}-{version}.dist-info'
        info.mkdir()
        (info / 'METADATA').write_text(f'Name: {name}\nVersion: {version}\n')
        (info / 'top_level.txt').write_text(package)
        (site / package).mkdir(exist_ok=True)
        (site / package / '__init__.py').write_text('raise ImportError')
        return site / package

    return add
