import copy
import json
import os
import re
from html.parser import HTMLParser

import pytest

from ra_mm.errors import UserError
from ra_mm.reproduce import paper, report
from ra_mm.reproduce.report import write_report

DEMO = 'DEMO SCALE - not a reproduction'


class Page(HTMLParser):
    """Collects the cells, captions, images and tags of a page."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.captions, self.tags = [], [], []
        self.target = None
        self.feed(text)

    @property
    def images(self):
        return [attrs for tag, attrs in self.tags if tag == 'img']

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == 'tr':
            self.rows.append([])
        elif tag in ('td', 'th'):
            self.rows[-1].append('')
            self.target = self.rows[-1]
        elif tag == 'caption':
            self.captions.append('')
            self.target = self.captions
        elif tag == 'small' and self.target:
            self.target[-1] += ' '

    def handle_endtag(self, tag):
        if tag in ('td', 'th', 'caption'):
            self.target = None

    def handle_data(self, data):
        if self.target is not None:
            self.target[-1] += data


@pytest.fixture
def write(tmp_path):
    """Write a ledger and its report, and return the page."""

    def write(ledger):
        (tmp_path / 'ledger.json').write_text(json.dumps(ledger))
        write_report(tmp_path)
        names = {path.name for path in tmp_path.iterdir()}
        assert names == {'ledger.json', 'report.html'}
        return (tmp_path / 'report.html').read_text(encoding='utf-8')

    return write


def test_facts_and_rows(write, trained_ledger):
    html = write(trained_ledger)
    assert '6 done, 0 running, 0 failed, 30 not run' in html
    assert f'{10 + 11 + 60 + 12 + 13 + 62:.1f} h' in html
    for fact in ('2 × Test GPU', 'torch 2.10.0', 'abc1234'):
        assert fact in html
    row = next(row for row in Page(html).rows if row[0] == '+RA')
    assert row[1:4] == ['11.69', '11.69', '+0.00']
    assert row[-1] == '3 of 3'


def test_misprints_are_footnotes(write, make_ledger):
    html = write(make_ledger(2))
    rows = [row for row in paper.rows(2) if row.misprints]
    cells = [cell for row in Page(html).rows for cell in row]
    assert len(rows) == html.count('<li>') == 3
    for number, row in enumerate(rows, 1):
        assert f'{row.paper["params"]}({number})' in cells


def test_demo_cannot_be_mistaken(write, make_ledger, make_run):
    ledger = make_ledger(scale='demo')
    metrics = dict.fromkeys(('top1', 'top5', 'AP', 'AP_mask', 'mIoU'), 12.3)
    for name in ledger['runs']:
        ledger['runs'][name] = make_run(metrics=metrics)
    html = write(ledger)
    page = Page(html)
    assert len(page.captions) == 9
    assert all(caption.startswith(DEMO) for caption in page.captions)
    assert html[html.index('<body>') :].startswith(
        f'<body>\n<div class="banner">{DEMO}'
    )
    assert f'<title>{DEMO}' in html
    assert 'diff.' not in html and ' − ' not in html  # nothing is compared
    assert 'class="paper' not in html  # the paper's numbers are muted
    assert DEMO not in write(make_ledger())


def test_own_data(write, trained_ledger):
    trained_ledger.update(data='/home/me/<cells>')
    for row in trained_ledger['rows']:
        row.update(paper={}, misprints={})
    html = write(trained_ledger)
    assert '&lt;cells&gt;</h1>' in html
    assert 'paper' not in re.sub(r'<style>.*?</style>', '', html, flags=re.S)
    trained_ledger['scale'] = 'demo'
    html = write(trained_ledger)
    assert 'on &lt;cells&gt;</div>' in html and 'drawn shapes' not in html


def test_no_text_of_the_ledger_becomes_markup(write, make_ledger, make_run):
    ledger = make_ledger(7)
    evil = '<b onclick=alert(1)>|`$a$$'
    for row in ledger['rows']:
        row['name'] = row['group'] = evil
        row['misprints'] = dict(top1=evil)
    for name in list(ledger['runs']):
        ledger['runs'][name] = make_run(
            0,
            'failed',
            command=evil,
            scaling=evil,
            needs=evil,
            commit=evil,
            versions={evil: evil},
            hardware=dict(device=evil, count=1),
            curves={
                'loss': [[1, 2.0], [2, 1.0]],
                f'G_{evil}_mean': [[1, 1.0], [2, 1.0]],
            },
        )
    html = write(ledger)
    tags = Page(html).tags
    assert 'script' not in {tag for tag, _ in tags}
    assert not any('onclick' in attrs for _, attrs in tags)
    assert html.count('&lt;script&gt;alert(1)') == len(ledger['runs'])


def test_page_loads_nothing_and_describes_its_images(write, make_ledger, add_curves):
    html = write(add_curves(make_ledger(2)))
    page = Page(html)
    assert len(page.images) == 3  # no hours without the baseline's
    assert all(image['alt'] for image in page.images)
    for tag, attrs in page.tags:
        assert tag not in ('link', 'script', 'iframe', 'object', 'use')
        for name in ('src', 'href', 'xlink:href', 'data', 'srcset'):
            assert attrs.get(name, '#').startswith(('#', 'data:image/'))
    assert 'http' not in html and '@import' not in html and 'url(' not in html


def test_gates_are_shown_once(write, make_ledger, add_curves):
    html = write(add_curves(make_ledger(2, 6, 7, seeds=2)))  # in each table
    assert html.count('data:image/png') == 2
    assert html.count('>ra_r18-seed0</h3>') == 1


def test_without_rows_and_without_curves(write, make_ledger, make_run):
    empty = dict(version=1, scale=None, data=None, seeds=0, rows=[], runs={})
    assert '0 done, 0 running, 0 failed, 0 not run' in write(empty)
    html = write(make_ledger())
    assert len(Page(html).captions) == 9
    assert not Page(html).images and 'Failed runs' not in html
    short = make_ledger(3)
    for name in short['runs']:  # a single point, and none that is a number
        short['runs'][name] = make_run(curves=dict(loss=[[10, 2.5]], temp=[[1, None]]))
    images = Page(write(short)).images
    assert len(images) == 1 + 3  # hours and three groups
    assert not any('temp' in image['alt'] for image in images)


def test_written_atomically(write, trained_ledger, tmp_path, monkeypatch):
    before = write(trained_ledger)
    changed = copy.deepcopy(trained_ledger)
    changed['runs']['ra_r18-seed0']['metrics']['top1'] = 12.0
    (tmp_path / 'ledger.json').write_text(json.dumps(changed))

    def full(*args):
        raise OSError(28, 'No space left on device')

    for module, name in ((report, 'render'), (os, 'replace')):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, full)
            with pytest.raises((OSError, UserError), match='No space left'):
                write_report(tmp_path)
        assert (tmp_path / 'report.html').read_text(encoding='utf-8') == before
        assert len(list(tmp_path.iterdir())) == 2
    write_report(tmp_path)
    assert (tmp_path / 'report.html').read_text(encoding='utf-8') != before


@pytest.mark.parametrize('text', [None, '{"version": 2}', '{"ver', '[]'])
def test_not_a_ledger(tmp_path, text):
    if text is not None:
        (tmp_path / 'ledger.json').write_text(text)
    with pytest.raises(UserError, match='ledger.json'):
        write_report(tmp_path)
    assert not (tmp_path / 'report.html').exists()
