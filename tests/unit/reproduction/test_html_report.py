"""The page: what stands in it is safe, complete, and written atomically."""

from html.parser import HTMLParser

import pytest

from reproduction.html_report import write_report
from reproduction.ledger import Ledger

DEMO = 'DEMO SCALE - not a reproduction'


class Page(HTMLParser):
    """Collects the cells, captions and tags of a page."""

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
        elif tag in ('td', 'th', 'caption'):
            self.target = self.captions if tag == 'caption' else self.rows[-1]
            self.target.append('')

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
        ledger.folder = tmp_path
        ledger.save()
        for run_id in ledger.runs:
            ledger.save_run(run_id)
        write_report(tmp_path)
        names = {path.name for path in tmp_path.iterdir()}
        assert names <= {'entries', 'ledger.json', 'report.html'}
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
    # Misprints of the paper are footnotes.
    rows = [row for row in trained_ledger.rows if row.misprints]
    assert html.count('<li>') == len(rows)


def test_demo_cannot_be_mistaken(write, make_ledger, make_entry):
    ledger = make_ledger(scale='demo')
    metrics = dict.fromkeys(('top1', 'top5', 'AP', 'AP_mask', 'mIoU'), 12.3)
    for name in ledger.runs:
        ledger.runs[name] = make_entry(metrics=metrics)
    html = write(ledger)
    captions = Page(html).captions
    assert len(captions) == 9
    assert all(caption.startswith(DEMO) for caption in captions)
    body = html[html.index('<body>') :]
    assert body.index(DEMO) < body.index('<h1>') and f'<title>{DEMO}' in html
    assert 'diff.' not in html and ' − ' not in html  # nothing is compared
    assert 'class="paper' not in html  # the paper's numbers are muted
    assert DEMO not in write(make_ledger())


def test_no_text_of_the_ledger_becomes_markup(write, make_ledger, make_entry):
    ledger = make_ledger(7)
    evil = '<b onclick=alert(1)>|`$a$$'
    for row in ledger.rows:
        row.name = row.group = evil
        row.misprints = dict(top1=evil)
    for name in ledger.runs:
        ledger.runs[name] = make_entry(
            status='failed',
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
    assert html.count('&lt;script&gt;alert(1)') == len(ledger.runs)


def test_page_loads_nothing_and_describes_its_images(write, make_ledger, add_curves):
    # RA-ResNet18 is in three tables; its gates are shown once.
    html = write(add_curves(make_ledger(2, 6, 7)))
    page = Page(html)
    assert sum('image/png' in image['src'] for image in page.images) == 2
    assert len(page.images) == 5
    assert all(image['alt'] for image in page.images)
    for tag, attrs in page.tags:
        assert tag not in ('link', 'script', 'iframe', 'object', 'use')
        for name in ('src', 'href', 'xlink:href', 'data', 'srcset'):
            assert attrs.get(name, '#').startswith(('#', 'data:image/'))
    assert 'http' not in html and '@import' not in html and 'url(' not in html


def test_without_rows_and_without_curves(write, make_ledger, make_entry, tmp_path):
    assert '0 done, 0 running, 0 failed, 0 not run' in write(Ledger(tmp_path))
    html = write(make_ledger())
    assert len(Page(html).captions) == 9
    assert not Page(html).images and 'Failed runs' not in html
    short = make_ledger(3)
    for name in short.runs:  # a single point, and none that is a number
        short.runs[name] = make_entry(curves=dict(loss=[[10, 2.5]], temp=[[1, None]]))
    images = Page(write(short)).images
    assert len(images) == 3  # for each group
    assert not any('temp' in image['alt'] for image in images)
