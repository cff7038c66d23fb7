"""Measure what an attention costs: time, peak memory, saved activations.

::

    python tools/benchmark.py train --layout nchw nhwc --out FILE.json
    python tools/benchmark.py detector --variants ra-fused ra plain-chosen
    python tools/benchmark.py sweep --variants ra-naive ra --out FILE.json
    python tools/benchmark.py show FILE.json
    python tools/benchmark.py gpu-report FILE.json

In each round every variant runs next to the plain model, so that both meet the
same state of the machine; the order alternates. The result for a variant is the
median of the ratios of its rounds, with their quartiles.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # benchmarks/ is in no wheel

from benchmarks.command import main, parse_args

__all__ = ['main', 'parse_args']

if __name__ == '__main__':
    main()
