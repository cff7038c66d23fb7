"""Sphinx makes the site from the pages, the docstrings and the tutorial: `make docs`.

The source folder is the root of the repository, so that pages, relative links and
pictures are the same on a forge and on the site.
"""

import inspect
import pkgutil
import re
import shutil
import sys
from importlib import import_module
from pathlib import Path

from sphinx.ext.autodoc.mock import mock

REPO = Path(__file__).parents[1]
sys.path.insert(0, str(REPO))

import ra_mm.threads  # noqa: E402

project = html_title = 'ra_mm'
author = copyright = 'The ra_mm contributors'
version = release = ra_mm.__version__

root_doc = 'README'
include_patterns = ['*.md', 'docs/**', 'examples/tutorial.ipynb']
extensions = ['myst_nb', 'sphinx.ext.autodoc', 'sphinx.ext.napoleon']
extensions += ['sphinx.ext.viewcode', 'sphinx_copybutton']
html_theme = 'furo'
pygments_dark_style = 'github-dark'  # furo's underlines imports as if they were links
html_extra_path = ['index.html']
html_search_scorer = str(REPO / 'docs/search_scorer.js')

myst_heading_anchors = 4
nb_execution_mode = 'cache'
nb_execution_cache_path = str(REPO / 'build/docs-notebooks')
nb_execution_raise_on_error = True
nb_execution_timeout = 3600  # a machine may be busy
nb_merge_streams = True
nb_output_stderr = 'remove'
smartquotes_action = 'De'  # dashes and dots, not quotes: 'ra' is a value to copy

autodoc_inherit_docstrings = False
autodoc_mock_imports = ['lightning', 'transformers', 'ultralytics']  # of ra_mm.adapters
autodoc_preserve_defaults = True
autodoc_typehints = 'none'  # the docstrings have the types
napoleon_use_ivar = True
nitpicky = True  # a reference to a name of ra_mm that does not exist is an error
nitpick_ignore_regex = [('py:.*', r'(?!ra_mm\b).*')]

CONTENTS = """
Start
    docs/install
    examples/tutorial
    Conversion <docs/conversion>
    docs/training
    docs/data
Use
    docs/cookbook
    Toolboxes' tools <docs/toolboxes>
    docs/deployment
    docs/extending
    docs/troubleshooting
Results
    Evidence <docs/evidence>
    Reproduction <docs/reproduction>
    docs/measurements
    Speed <docs/speed>
    Derivation of the fused tail <docs/fused_tail>
Reference
    docs/api/index
    CONTRIBUTING
    CHANGELOG
"""
FIRST = ['ra_mm', 'ra_mm.layers', 'ra_mm.conversion', 'ra_mm.backbones', 'ra_mm.hooks']


def add_contents(app, docname, source):
    """Add the table of contents to the README, which is the front page of the site."""
    if docname == root_doc:
        for part in re.split(r'\n(?=\w)', CONTENTS.strip()):
            caption, *pages = part.split('\n')
            lines = ['', '```{toctree}', ':hidden:', f':caption: {caption}']
            source[0] += '\n'.join([*lines, *map(str.strip, pages), '```', ''])


def list_modules(name):
    """A module and, if it is a package, all public modules in it."""
    with mock(autodoc_mock_imports if name.startswith('ra_mm.adapters') else []):
        module = import_module(name)
    found = pkgutil.iter_modules(getattr(module, '__path__', []))
    names = [f'{name}.{m.name}' for m in found if m.name[0] != '_']
    return [module, *(m for name in names for m in list_modules(name))]


def list_objects(module):
    """The public names of a module, and the directive that documents each."""
    own = [n for n, v in vars(module).items() if is_from(v, module)]
    for name in getattr(module, '__all__', own):
        value = getattr(module, name)
        if not hasattr(value, '__name__'):
            yield name, value, 'data'
        elif name[0] != '_' and inspect.getdoc(value):
            yield name, value, 'autoclass' if inspect.isclass(value) else 'autofunction'


def is_from(value, module):
    here = getattr(value, '__module__', None) == module.__name__
    return here and hasattr(value, '__name__')


def describe(module, seen):
    """Lines of autodoc for the names of a module that were not seen before."""
    lines = []
    for name, value, kind in list_objects(module):
        if id(value) not in seen:
            seen.add(id(value))
            # automodule has set the module of a bare name
            full_name = name if kind == 'data' else f'{module.__name__}.{name}'
            lines += ['', f'.. {kind}:: {full_name}']
            if kind == 'data':
                lines += ['', '   ' + ', '.join(f'``{item!r}``' for item in value)]
            if kind == 'autoclass':
                lines += ['   :members:', '   :show-inheritance:']
    return lines


def write_api(app):
    """Write a page for each package, with every public name at its first place."""
    folder = REPO / 'docs/api'
    shutil.rmtree(folder, ignore_errors=True)  # names may have moved
    folder.mkdir()
    modules = list_modules('ra_mm')
    pages = [m.__name__ for m in modules if m.__name__.count('.') < 2]
    pages.sort(key=lambda page: FIRST.index(page) if page in FIRST else len(FIRST))
    seen: set[int] = set()
    for page in pages:
        lines = []
        for module in modules:
            name = module.__name__
            if name == page or (page != 'ra_mm' and name.startswith(f'{page}.')):
                names = describe(module, seen)
                if name != page and not names and '\n' not in module.__doc__:
                    continue  # a sentence about names that the package offers
                lines += ['', name, ('=' if name == page else '-') * len(name)]
                lines += ['', f'.. automodule:: {name}', *names]
        (folder / f'{page}.rst').write_text('\n'.join(lines) + '\n')
    index = ['API reference', '=' * 13, '', '.. toctree::', '   :hidden:', '']
    index += [*(f'   {page}' for page in pages), '']
    about = {m.__name__: m.__doc__.partition('\n')[0] for m in modules}
    index += [f'- :doc:`{page}`: {about[page]}' for page in pages]
    (folder / 'index.rst').write_text('\n'.join(index) + '\n')


def skip_field(app, what, name, obj, skip, options):
    """Leave out the fields of a named tuple, which its docstring describes."""
    return True if type(obj).__name__ == '_tuplegetter' else None


def setup(app):
    app.connect('autodoc-skip-member', skip_field)
    app.connect('builder-inited', write_api)
    app.connect('source-read', add_contents)
