"""What pyproject.toml cannot say: the README on PyPI, and what OpenMIM looks for."""

import re
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py


def absolute_readme():
    """Return the README with links and pictures that work outside the repository."""
    project = Path('pyproject.toml').read_text()
    url = re.search(r"^Repository = '(.+)'", project, re.M)[1]
    code = Path('ra_mm/__init__.py').read_text()
    tag = 'v' + re.search(r"^__version__ = '(.+)'", code, re.M)[1]

    def replace(match):
        kind = 'raw' if match[1] else 'blob'
        return f'{match[1]}[{match[2]}]({url}/{kind}/{tag}/{match[3]})'

    link = r'(!?)\[([^\]]*)\]\((?!https?://|#)([^)\s]+)\)'
    return re.sub(link, replace, Path('README.md').read_text())


def copy_mim(folder):
    """Copy the configs and their index, the tools and what they import, to ``.mim``."""
    mim = Path(folder, '.mim')
    shutil.rmtree(mim, ignore_errors=True)  # of an earlier build
    for name in ('configs', 'reproduction', 'tools'):
        # The benchmark needs benchmarks/, which only a clone has.
        ignore = shutil.ignore_patterns('__pycache__', 'benchmark.py')
        shutil.copytree(name, mim / name, ignore=ignore)
    shutil.copy('model-index.yml', mim)


class BuildPackage(build_py):
    """Copies them into the package, as the OpenMMLab toolboxes do.

    An editable install has no copy: OpenMIM and ra_mm read the checkout.
    """

    def run(self):
        super().run()
        if not self.editable_mode:
            copy_mim(Path(self.build_lib, 'ra_mm'))


class BuildWheel(bdist_wheel):
    """Copies them beside the metadata too.

    onedl-mim (0.5.1) takes the folder of a distribution's first file for its
    package, which for ra_mm is ``ra_mm-<version>.dist-info``. Delete this class when
    onedl-mim looks for the package itself; look again before 2027-06-01.
    """

    def write_wheelfile(self, wheelfile_base, *args, **kwargs):
        super().write_wheelfile(wheelfile_base, *args, **kwargs)
        if 'editable_wheel' not in self.distribution.commands:
            copy_mim(wheelfile_base)


setup(
    long_description=absolute_readme(),
    long_description_content_type='text/markdown',
    cmdclass={'build_py': BuildPackage, 'bdist_wheel': BuildWheel},
)
