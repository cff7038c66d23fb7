"""The range of the pixels that a config normalizes."""

from collections.abc import Iterator

from ra_mm.checks.context import Context
from ra_mm.checks.finding import Finding, remedy, warning
from ra_mm.engine.config import get_value


def check_pixel_range(context: Context) -> Iterator[Finding]:
    """Means and standard deviations are for pixels of 0 to 255."""
    for key in ('data_preprocessor', 'model.data_preprocessor'):
        names = f'{key}.mean', f'{key}.std'
        mean, std = (get_value(context.cfg, name) or [0] for name in names)
        if 0 < max(mean) <= 1 and max(std) < 1:
            scaled = ([round(255 * x, 3) for x in values] for values in (mean, std))
            yield warning(
                f'{key}.mean={list(mean)} and std={list(std)} are for pixels of 0 to '
                f'1, but images have 0 to 255: {remedy(dict(zip(names, scaled)))}'
            )
