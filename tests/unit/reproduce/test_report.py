"""The report: its numbers recomputed, and what it must never hide."""

import base64
import copy
import json
import os
import re
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest
import torch

from ra_mm.analysis import gates
from ra_mm.backbones import RAResNet
from ra_mm.reproduce import paper, report
from ra_mm.reproduce.report import write_report

DEMO = 'DEMO SCALE - not a reproduction: tiny nets on drawn shapes'
LOG = 'x < y && <script>alert(1)</script>\nRuntimeError: | out of `memory`'


class Page(HTMLParser):
    """Tables as rows of texts, captions, polylines and all attributes."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.captions, self.tags, self.lines = [], [], [], []
        self.into = None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append((tag, attrs))
        if tag == 'tr':
            self.rows.append([])
        elif tag in ('td', 'th'):
            self.rows[-1].append('')
            self.into = self.rows[-1]
        elif tag == 'caption':
            self.captions.append('')
            self.into = self.captions
        elif tag == 'small' and self.into:
            self.into[-1] += ' '
        elif tag == 'polyline':
            self.lines.append(
                (
                    attrs['stroke-width'],
                    np.array(
                        [pair.split(',') for pair in attrs['points'].split()], float
                    ),
                )
            )

    def handle_endtag(self, tag):
        if tag in ('td', 'th', 'caption'):
            self.into = None

    def handle_data(self, data):
        if self.into is not None:
            self.into[-1] += data

    def row(self, name):
        """The first row of that name, without what is empty."""
        return next(
            [text.strip() for text in row[1:]]
            for row in self.rows
            if row[1:] and row[0] == name
        )


def make_run(seed=0, status='done', hours=1.0, device='Test GPU', **values):
    done = status == 'done'
    return (
        dict(
            config='configs/some.py',
            seed=seed,
            needs=None,
            status=status,
            command='python tools/train.py',
            work_dir='runs/x',
            scaling=None,
            wall_s=3600 * hours if done else 0.0,
            peak_memory_mb=None,
            hardware=dict(device=device, count=2) if done else None,
            versions=dict(torch='2.10.0') if done else None,
            commit='abc1234' if done else None,
            params=None,
            flops=None,
            metrics={},
            curves={},
            checkpoint=None,
            gates=None,
            error=LOG if status == 'failed' else None,
        )
        | values
    )


def make_ledger(*tables, seeds=1, **values):
    """A ledger of which nothing has been run."""
    rows, runs = [], {}
    for row in paper.rows(*tables):
        names = [f'{row.config.stem}-seed{seed}' for seed in range(seeds)]
        rows.append(
            dict(
                table=row.table,
                group=row.group,
                name=row.name,
                runs=names,
                paper={k: str(v) for k, v in row.paper.items()},
                misprints=row.misprints,
            )
        )
        runs.update(
            (name, make_run(seed, 'waiting')) for seed, name in enumerate(names)
        )
    return (
        dict(version=1, scale='full', data=None, seeds=seeds, rows=rows, runs=runs)
        | values
    )


@pytest.fixture
def write(tmp_path):
    """Write a ledger and its report, return Markdown and HTML."""

    def write(ledger):
        (tmp_path / 'ledger.json').write_text(json.dumps(ledger))
        write_report(tmp_path)
        assert {p.name for p in tmp_path.iterdir()} == {
            'ledger.json',
            'report.md',
            'report.html',
        }
        return (
            (tmp_path / 'report.md').read_text(encoding='utf-8'),
            (tmp_path / 'report.html').read_text(encoding='utf-8'),
        )

    return write


@pytest.fixture
def trained():
    """ResNet18, plain and with RA, three seeds each."""
    ledger = make_ledger(2, seeds=3)
    ledger['rows'] = ledger['rows'][:4]
    top1 = {'r18': (69.4, 70.1, 70.3), 'ra_r18': (71.0, 71.9, 71.2)}
    for model, values in top1.items():
        for seed, value in enumerate(values):
            ledger['runs'][f'{model}-seed{seed}'] = make_run(
                seed,
                params=11.6914,
                flops=1.8214,
                # The last is held up: the ratio is of the medians, 11 and 13.
                hours=(10.0 if model == 'r18' else 12.0) + (0, 1, 50)[seed],
                metrics=dict(top1=value, top5=value + 20),
            )
    return ledger


def cells(markdown, name):
    line = next(
        line for line in markdown.splitlines() if line.startswith(f'| {name} |')
    )
    return [text.strip() for text in line.strip('|').split('|')][1:]


def test_numbers(write, trained):
    markdown, html = write(trained)
    top1 = np.array([71.0, 71.9, 71.2])
    expected = [
        '11.69',
        '11.69',
        '+0.00',
        '1.824',
        '1.821',
        '−0.003',
        '71.2',
        f'{top1.mean():.2f} ±{top1.std(ddof=1):.2f}',
        f'{top1.mean() - 71.2:+.2f}',
        '90.1',
        f'{top1.mean() + 20:.2f} ±{top1.std(ddof=1):.2f}',
        f'{top1.mean() + 20 - 90.1:+.2f}',
        f'×{12.7 / 12.4:.2f} 12.7 h',
        f'×{13 / 11:.2f} 13.0 h',
        '3 of 3',
    ]
    assert cells(markdown, '+RA') == expected
    assert Page(html).row('+RA') == expected
    assert '6 done, 0 running, 0 failed, 30 not run' in html
    assert f'{10 + 11 + 60 + 12 + 13 + 62:.1f} h in all' in html
    for fact in ('2 × Test GPU', 'torch 2.10.0', 'abc1234'):
        assert fact in html and fact in markdown


def test_reading_of_the_seeds(write, trained):
    html = write(trained)[1]
    assert (
        '+RA − ResNet18 = +1.43 (paper: +1.0): beyond the spread of the seeds' in html
    )
    # 20 ways to choose 3 of 6 seeds, two of which separate the models.
    assert 'in 1 case of 10' in html
    trained['runs']['r18-seed1']['metrics']['top1'] = 71.0  # RA's lowest
    html = write(trained)[1]
    assert 'within the spread of the seeds' in html
    assert 'beyond the spread' not in html
    for model in ('r18', 'ra_r18'):
        for seed in (1, 2):
            trained['runs'][f'{model}-seed{seed}'] = make_run(seed, 'waiting')
    html = write(trained)[1]
    assert 'One seed does not show what chance alone does' in html


def test_what_has_not_been_run_says_so(write):
    ledger = make_ledger(4, seeds=2)
    ledger['runs']['faster_rcnn_se_r50-seed0'] = make_run(0, 'failed')
    ledger['runs']['faster_rcnn_cbam_r50-seed1'] = make_run(1, 'running')
    ledger['runs']['faster_rcnn_ra_r50-seed0'] = make_run(metrics=dict(AP=39.0))
    ledger['runs']['faster_rcnn_ra_r50-seed1'] = make_run(1, 'failed')
    page = Page(write(ledger)[1])
    assert page.row('Baseline')[:3] == ['43.58', 'not run', '–']
    assert page.row('Baseline').count('not run') == 7
    assert page.row('+SE').count('failed') == 7
    assert page.row('+CBAM').count('running') == 7
    ra = page.row('+RA')
    assert ra[-1] == '1 of 2, 1 failed'
    assert ra[6:9] == ['39.2', '39.00', '−0.20']  # one seed: no spread
    assert ra[9:12] == ['60.4', '–', '–']  # done, but without AP50


def test_misprints_are_footnotes(write):
    markdown, html = write(make_ledger(2))
    rows = [row for row in paper.rows(2) if row.misprints]
    assert len(rows) == 3
    for number, row in enumerate(rows, 1):
        assert f'{row.paper["params"]}({number})' in [
            cell for r in Page(html).rows for cell in r
        ]
        assert f'| {row.paper["params"]} ({number}) |' in markdown
        note = row.misprints['params']
        assert f'({number}) {note}' in markdown
    assert html.count('<li>') == 3


def test_ratio_of_hours_needs_the_baseline_on_the_same_hardware(write, trained):
    for run in trained['runs'].values():
        if run['hardware']:
            run['hardware'] = dict(device='Test GPU', count=2)
    trained['runs']['ra_r18-seed2']['hardware']['device'] = 'Other GPU'
    page = Page(write(trained)[1])
    assert page.row('+RA')[12:14] == ['×1.02 12.7 h', '– 13.0 h']
    assert page.row('+RA')[-1] == '2 × Other GPU, 2 × Test GPU'
    trained['rows'] = trained['rows'][3:]  # --rows +RA
    html = write(trained)[1]
    assert Page(html).row('+RA')[12:14] == ['– 12.7 h', '– 13.0 h']
    assert 'the spread of the seeds' not in html


def test_demo_cannot_be_mistaken(write):
    ledger = make_ledger(scale='demo')
    for name, _run in ledger['runs'].items():
        ledger['runs'][name] = make_run(
            metrics=dict.fromkeys(('top1', 'top5', 'AP', 'AP_mask', 'mIoU'), 12.3)
        )
    markdown, html = write(ledger)
    page = Page(html)
    assert len(page.captions) == 9
    assert all(caption.startswith(DEMO) for caption in page.captions)
    body = html[html.index('<body>') :]
    assert body.startswith(f'<body>\n<div class="banner">{DEMO}</div>')
    assert f'<title>{DEMO}: ' in html
    assert markdown.splitlines()[2] == f'**{DEMO}**'
    for part in markdown.split('\n## Table')[1:]:
        assert f'**{DEMO}**' in part
    assert page.row('ResNet18')[4:6] == ['12.30', '70.2']  # no difference
    assert 'diff.' not in html + markdown
    assert ' − ' not in html + markdown  # and no reading
    assert 'class="paper' not in html  # but muted
    full = make_ledger()
    assert 'DEMO' not in ''.join(write(full))


def test_own_data(write, trained):
    trained['data'] = '/home/me/<cells>'
    for row in trained['rows']:
        row.update(paper={}, misprints={})
    trained['runs']['se_r18-seed0'] = make_run(metrics=dict(top1=69.9333))
    markdown, html = write(trained)
    page = Page(html)
    assert '<h1>plain, SE, CBAM and RA on &lt;cells&gt;</h1>' in html
    assert 'paper' not in re.sub(r'<style>.*?</style>', '', html, flags=re.S)
    # params, FLOPs, top-1, top-5, hours
    assert page.row('ResNet18')[2:4] == ['69.93 ±0.47', '–']
    assert page.row('+RA')[2:4] == ['71.37 ±0.47', '+1.43']
    assert page.row('+SE')[2:4] == ['69.93', '+0.00']
    assert page.row('+CBAM')[2] == 'not run'
    assert '+RA − ResNet18 = +1.43: beyond the spread' in markdown
    trained['scale'] = 'demo'
    html = write(trained)[1]
    assert 'tiny nets on &lt;cells&gt;' in Page(html).captions[0].replace(
        '<', '&lt;'
    ).replace('>', '&gt;')
    assert 'drawn shapes' not in html


def test_no_text_of_the_ledger_becomes_markup(write):
    ledger = make_ledger(7)
    evil = '<img src=x onerror=alert(1)>|`$a$'
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
    markdown, html = write(ledger)
    assert not {'img', 'script'} & {tag for tag, _ in Page(html).tags}
    assert html.count('&lt;script&gt;alert(1)') == len(ledger['runs'])
    # In Markdown the log is a block of code, and names are escaped.
    for line in LOG.splitlines():
        assert f'\n    {line}\n' in markdown
    rest = re.sub(r'^    .*$', '', markdown, flags=re.M)
    assert not re.search(r'(?<!\\)<', rest)
    widths = {
        len(re.findall(r'(?<!\\)\|', line))
        for line in rest.splitlines()
        if line.startswith('|')
    }
    assert len(widths) == 1  # a | in a name starts no column


def test_html_loads_nothing(write):
    html = write(drawn(make_ledger(2)))[1]
    for tag, attrs in Page(html).tags:
        assert tag not in ('link', 'script', 'iframe', 'object', 'use')
        for name in ('src', 'href', 'xlink:href', 'data', 'srcset'):
            value = attrs.get(name, '#')
            assert value.startswith(('#', 'data:image/png;base64,'))
    assert 'http' not in html and '@import' not in html and 'url(' not in html


def drawn(ledger):
    """Give the ledger's RA-ResNet18 curves and gates."""
    torch.manual_seed(0)
    backbone = RAResNet(18, stem_channels=8, base_channels=8)
    for layer in gates.find_blocks(backbone.eval()).values():
        torch.nn.init.normal_(layer.gamma)
    images = [(label, torch.rand(1, 3, 32, 32)) for label in ('cat', 'dog')]
    measured = gates.measure(backbone, images, ['RA_2_1', 'RA_5_2'])
    for seed in range(ledger['seeds']):
        # Each on a line; seed 1 was stopped early.
        x = range(10, (60, 50)[seed % 2], 10)
        ledger['runs'][f'ra_r18-seed{seed}'] = make_run(
            seed,
            metrics=dict(top1=70.0, top5=90.0),
            gates=json.loads(json.dumps(measured)),
            curves={
                'loss': [[i, 4 - 0.05 * i + seed] for i in x],
                'temp': [[i, 31.0 - i / 2] for i in x],
                'val/top1': [[1, 60.0], [2, None], [3, float('nan')], [4, 70.0 + seed]],
                'G_layer1_mean': [[i, 1 + i / 100] for i in x],
                'G_layer1_std': [[i, 0.1] for i in x],
                'G_layer2_mean': [[i, 1.0] for i in x],
            },
        )
    return ledger


def test_curves(write):
    page = Page(write(drawn(make_ledger(8, seeds=2)))[1])
    thin = [line for width, line in page.lines if width == '0.6']
    bold = [line for width, line in page.lines if width == '1.8']
    loss = thin[:2] + bold[:1]
    assert [len(line) for line in loss] == [5, 4, 4]
    # Seed 1 is above seed 0 (in the picture a smaller y), the mean over the
    # iterations that both have half-way between.
    np.testing.assert_allclose(loss[2], (loss[0][:4] + loss[1]) / 2, atol=0.11)
    assert (loss[1][:, 1] < loss[0][:4, 1]).all()
    for line in loss:
        np.testing.assert_allclose(np.diff(line, n=2, axis=0), 0, atol=0.21)
    # From the first to the last validation: what is no number is left out.
    assert [len(line) for line in thin[2:4]] == [2, 2]
    captions = re.findall(
        r'aria-label="([^"]*)"', write(drawn(make_ledger(8, seeds=2)))[1]
    )
    assert captions == [
        'Training loss',
        'Top-1 Acc. (%)',
        'temp',
        '1 +: G by stage, mean ± std, seed 0',
    ]
    # layer1 rises, layer2 stays; layer1 alone has a band.
    rising, level = bold[-2:]
    assert (np.diff(rising[:, 1]) < 0).all()
    assert (np.diff(level[:, 1]) == 0).all()
    bands = [attrs['points'] for tag, attrs in page.tags if tag == 'polygon']
    assert len(bands) == 1
    band = np.array([p.split(',') for p in bands[0].split()], float)
    np.testing.assert_allclose((band[:5] + band[5:][::-1]) / 2, rising, atol=0.11)


def test_a_diverged_loss_leaves_the_others_readable(write):
    ledger = make_ledger(8)
    for name, last in (('r18', 1.0), ('ra_r18', 1e6)):
        ledger['runs'][f'{name}-seed0'] = make_run(
            curves=dict(loss=[[1, 7.0], [2, last]])
        )
    calm, diverged = (line for _, line in Page(write(ledger)[1]).lines)
    fall = calm[1, 1] - calm[0, 1]
    rise = diverged[0, 1] - diverged[1, 1]
    expected = np.log10(7) / np.log10(1e6 / 7)
    assert fall / rise == pytest.approx(expected, rel=0.02)


def test_pictures_of_gates_are_drawn_once(write):
    ledger = drawn(make_ledger(2, 6, 7, seeds=2))  # in each of the tables
    html = write(ledger)[1]
    pictures = re.findall(r'data:image/png;base64,([^"]+)', html)
    assert len(pictures) == 2
    for picture in pictures:
        data = np.frombuffer(base64.b64decode(picture), np.uint8)
        image = cv2.imdecode(data, cv2.IMREAD_COLOR)
        assert min(image.shape[:2]) > 100 and image.std() > 5
    assert html.count('>ra_r18-seed0</h3>') == 1


def test_without_rows_and_without_curves(write):
    empty = dict(version=1, scale=None, data=None, seeds=0, rows=[], runs={})
    for text in write(empty):
        assert '0 done, 0 running, 0 failed, 0 not run' in text
    html = write(make_ledger())[1]
    assert '<svg' not in html and 'Failed runs' not in html
    assert len(Page(html).captions) == 9
    short = make_ledger(3)
    for name in short['runs']:  # one point, and none that is a number
        short['runs'][name] = make_run(curves=dict(loss=[[10, 2.5]], temp=[[1, None]]))
    assert '<circle' in write(short)[1]


def test_written_whole_or_not_at_all(write, trained, tmp_path, monkeypatch):
    before = write(trained)
    changed = copy.deepcopy(trained)
    changed['runs']['ra_r18-seed0']['metrics']['top1'] = 12.0
    (tmp_path / 'ledger.json').write_text(json.dumps(changed))

    def full(*args):
        raise OSError(28, 'No space left on device')

    for module, name in ((report, '_html'), (os, 'replace')):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, full)
            with pytest.raises(OSError, match='No space left'):
                write_report(tmp_path)
        after = [
            (tmp_path / name).read_text(encoding='utf-8')
            for name in ('report.md', 'report.html')
        ]
        assert after == list(before)
        assert len(list(tmp_path.iterdir())) == 3
    write_report(tmp_path)
    assert (tmp_path / 'report.md').read_text(encoding='utf-8') != before[0]


def test_no_ledger(tmp_path):
    with pytest.raises(ValueError, match='no ledger.json'):
        write_report(tmp_path)
    (tmp_path / 'ledger.json').write_text('{"version": 2}')
    with pytest.raises(ValueError, match='version 2'):
        write_report(tmp_path)
    assert not (tmp_path / 'report.html').exists()
