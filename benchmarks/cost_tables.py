"""Tables of the results of ``tools/benchmark.py``, in Markdown."""

import json
import statistics
from collections.abc import Iterable

import numpy as np

from ra_mm.ops.compilation import Choice


def compare_with_plain(result: dict, plain: dict) -> dict:
    """Compare a variant with the plain model.

    Args:
        result (dict): ``pairs_ms`` (the plain model's and the variant's time
            in each round), ``peak_bytes`` and ``saved_bytes``
            (both may be None).
        plain (dict): The same for the plain model.

    Returns:
        dict: ``ms`` (the variant's median time), ``ratio`` (the median of the
        rounds' ratios), ``quartiles`` (the lower and upper quartile of the
        ratios), ``peak`` and ``saved`` (ratios, or None).
    """
    ratios = [own / p for p, own in result['pairs_ms']]
    low, ratio, high = np.quantile(ratios, [0.25, 0.5, 0.75])

    def over_plain(key):
        return result[key] / plain[key] if plain[key] and result[key] else None

    return dict(
        ms=statistics.median(own for _, own in result['pairs_ms']),
        ratio=ratio,
        quartiles=(low, high),
        peak=over_plain('peak_bytes'),
        saved=over_plain('saved_bytes'),
    )


def title(m: dict) -> str:
    """Name the settings of a measurement or, as a dict, of a :class:`.Case`."""
    form = '{what} {model}, {device} {precision} {layout}, {batch} x {size} px'
    return form.format(**m)


def markdown_table(head: list[str], rows: Iterable[list], texts: int = 1) -> str:
    """Format a table whose first columns are text and the others numbers."""
    rule = texts * ['---'] + (len(head) - texts) * ['---:']
    return '\n'.join(f'| {" | ".join(row)} |' for row in (head, rule, *rows))


def cost_table(m: dict) -> str:
    """Format a measurement as a Markdown table."""

    def cell(value, form, unit=1):
        return '' if value is None else format(value / unit, form)

    rows = []
    for result in m['results']:
        if 'error' in result:
            message = ' '.join(result['error'].split()).replace('|', '/')
            rows.append([result['variant'], message[:200], *6 * ['']])
            continue
        s = compare_with_plain(result, m['results'][0])
        low, high = s['quartiles']
        row = [cell(s['ms'], '.4g'), f'{s["ratio"]:.3f} [{low:.3f}, {high:.3f}]']
        for key in ('peak', 'saved'):
            row += [cell(result[f'{key}_bytes'], '.1f', 1e6), cell(s[key], '.3f')]
        paper = cell(result.get('paper_ratio'), '.2f')
        rows.append([result['variant'], *row, paper])
    head = 'variant|ms|time [quartiles]|peak MB|peak|saved MB|saved|paper'.split('|')
    text = f'{title(m)}, {m["rounds"]} rounds of {m["number"]}\n\n'
    text += markdown_table(head, rows) + '\n'
    chosen = [(r['variant'], r['choice']) for r in m['results'] if r.get('choice')]
    return text + ''.join(f'\n{name}: {Choice(**choice)}.\n' for name, choice in chosen)


def report_tables(report: dict) -> str:
    """Format a GPU report as Markdown, one section for each part."""
    env = report['environment']
    facts = 'gpu', 'driver', 'cuda', 'cudnn', 'torch', 'python', 'commit', 'date'
    sections = [', '.join(f'{key} {env[key]}' for key in facts if env.get(key))]
    for part in report['parts']:
        state = f'{part["status"]}, {part["seconds"]:.0f} s'
        reason = f': {part["reason"]}' if 'reason' in part else ''
        sections.append(f'## {part["name"]} ({state}){reason}')
        results = part['results']
        sections += [cost_table(r) for r in results if 'what' in r]
        if errors := [r for r in results if 'path' in r]:
            sections.append(_exactness_table(errors))
        # Reports of the first version compare mmcv's operators with torchvision's.
        sections += [json.dumps(r) for r in results if 'library' in r]
    return '\n\n'.join(sections)


def _exactness_table(results):
    """Tabulate the largest errors over layouts and modes of batch norm."""
    names = list(results[0]['errors'])
    norms = {}
    for r in results:
        row = [r['errors'][name]['norm'] for name in names]
        norms.setdefault((r['path'], r['dtype']), []).append(row)
    # np.max is NaN if one of the values is.
    largest = {key: np.max(values, axis=0) for key, values in norms.items()}
    rows = [[*key, *(f'{n:.1e}' for n in found)] for key, found in largest.items()]
    table = markdown_table(['path', 'dtype', *names], rows, texts=2)
    return f'Largest norm of the error, relative to that of the exact value:\n\n{table}'
