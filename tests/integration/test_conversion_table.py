"""The tables in docs/conversion.md, from the models in their real size."""

import json
import re
from pathlib import Path

import pytest
import torch

from benchmarks.conversion_coverage import RESULTS, table
from ra_mm.conversion import convert, summarize

DOCS = (Path(__file__).parents[2] / 'docs/conversion.md').read_text()
ROWS = re.findall(r'^\| (torchvision|timm) \| `(\w+)` \| (.+) \| (.+) \|$', DOCS, re.M)


@pytest.mark.parametrize('library, name, blocks, added', ROWS)
def test_table_in_the_docs(library, name, blocks, added):
    """The models in their real size."""
    models = pytest.importorskip(f'{library}.models')
    # torchvision computes the widths of a RegNet with tensors.
    with torch.device('cpu' if 'regnet' in name else 'meta'):
        model = convert(getattr(models, name)())
    expected = f'ReverseAttention in {blocks} blocks: {added} parameters added'
    assert summarize(model) == expected


@pytest.mark.parametrize('library', json.loads(RESULTS.read_text()))
def test_coverage_in_the_docs(library):
    assert table(json.loads(RESULTS.read_text())[library]) in DOCS
