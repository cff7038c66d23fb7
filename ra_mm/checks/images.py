"""Images as they are loaded: complete, of the annotated size, and not too dark."""

from collections.abc import Iterator

from ra_mm.checks.context import Context
from ra_mm.checks.finding import Finding, error, remedy, warning
from ra_mm.checks.sample import Part, Sample
from ra_mm.engine.config import get_type, get_value

# Fraction of sampled images above which a fault is systematic.
MAX_ACCIDENTS = 0.05
DARK = 64  # of 255, for the brightest pixel


def check_pixel_range(context: Context) -> Iterator[Finding]:
    """Means and standard deviations are for pixels of 0 to 255."""
    for key in ('data_preprocessor', 'model.data_preprocessor'):
        names = f'{key}.mean', f'{key}.std'
        mean, std = (get_value(context.cfg, name) or [0] for name in names)
        if 0 < max(mean) <= 1 and max(std) < 1:
            scaled = ([round(255 * x, 3) for x in values] for values in (mean, std))
            text = f'{key}.mean={list(mean)} and std={list(std)} are for pixels of 0'
            advice = remedy(dict(zip(names, scaled)))
            yield warning(f'{text} to 1, but images have 0 to 255: {advice}')


def check_normalization(context: Context) -> Iterator[Finding]:
    """Images are normalized once."""
    mean = get_value(context.cfg, 'model.data_preprocessor.mean')
    for path, steps in context.iter_pipelines() if mean else ():
        if any(get_type(step) == 'Normalize' for step in steps):
            text = f'{path} has Normalize, and model.data_preprocessor normalizes, too'
            yield warning(f'{text}: leave one of them out')


def check_readable_images(part: Part) -> Iterator[Finding]:
    """Every image and annotation can be read, completely."""
    if bad := [s.error for s in part.samples if s.error is not None]:
        yield error(f'{part.share(bad)} cannot be loaded: {bad[0]}', bad[0])
    stored = ((s.path, s.stored.problem) for s in part.loaded if s.stored)
    if broken := [f'{path}: {problem}' for path, problem in stored if problem]:
        text = f'{part.share(broken)} can be decoded only in part, such as {broken[0]}'
        is_error = len(broken) > MAX_ACCIDENTS * len(part.samples)
        yield Finding(is_error, f'{text}. Replace or remove them')


def check_sizes(part: Part) -> Iterator[Finding]:
    """Images have the size that the annotations were made for."""
    wrong = [s for s in part.loaded if has_other_size(s)]
    if not wrong:
        return
    sample, stored, declared = wrong[0], wrong[0].stored, _get_declared(wrong[0])
    loaded = sample.size or ()
    sizes = '(annotated {} x {}, loaded {} x {})'.format(*declared, *loaded)
    effect = 'so boxes and masks may lie elsewhere: restore or annotate the images'
    if stored and stored.orientation != 1 and stored.size == declared:
        loaders = (i for i, s in enumerate(_steps(part)) if hasattr(s, 'color_type'))
        key = f'{part.key}.pipeline.{next(loaders, 0)}.color_type'
        effect = (
            f'turned by EXIF: {remedy({key: "color_ignore_orientation"})} (for the test '
            'pipeline too), or save the images turned and annotate those'
        )
    yield Finding(
        len(wrong) > MAX_ACCIDENTS * len(part.samples),
        f'{part.share(wrong)} are loaded with another size than their annotations say, '
        f'such as {sample.path} {sizes}, {effect}',
    )


def has_other_size(sample: Sample) -> bool:
    """Whether an image is loaded with another size than its annotations say."""
    declared = _get_declared(sample)
    return None not in declared and bool(sample.size) and declared != sample.size


def _get_declared(sample):
    return sample.info.get('width'), sample.info.get('height')


def _steps(part):
    return getattr(getattr(part.dataset, 'pipeline', None), 'transforms', ())


def check_orientation(part: Part) -> Iterator[Finding]:
    """EXIF does not turn images in a way that their size cannot show."""
    colors = [str(getattr(step, 'color_type', '')) for step in _steps(part)]
    if any(c == 'unchanged' or 'ignore_orientation' in c for c in colors):
        return
    # Only of images with positions; if they are upside down or square, no size changes.
    loaded = part.loaded
    placed = [s for s in loaded if s.boxes is not None or s.mask_values is not None]
    files = [(s.path, s.stored) for s in placed if s.stored and s.size == s.stored.size]
    if turned := [path for path, file in files if file.orientation not in (0, 1)]:
        text = f'{part.share(turned)} are turned by EXIF and keep their size, such as'
        advice = 'Make sure that they were annotated as they are shown'
        yield warning(f'{text} {turned[0]}. {advice}')


def check_brightness(part: Part) -> Iterator[Finding]:
    """16-bit images are not truncated to a few dark 8-bit values."""
    deep = [s for s in part.loaded if s.stored and s.stored.has_16_bits]
    if dark := [s for s in deep if s.brightest < DARK]:
        yield Finding(
            len(dark) > 0.5 * len(part.samples),
            f'{part.share(dark)} have 16 bits, of which the upper 8 are loaded: at most '
            f"{dark[0].brightest:g} of 255 in {dark[0].path}. Add color_type='unchanged' "
            'and to_float32=True to LoadImageFromFile, or scale the images to 8 bits',
        )
