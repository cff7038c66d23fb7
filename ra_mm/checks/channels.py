"""Channels and range of pixels, from the image loader to the backbone."""

from collections.abc import Iterator

from ra_mm.checks.context import Context
from ra_mm.checks.finding import Finding, error, remedy, warning
from ra_mm.engine.config import get_toolbox, get_type, get_value

# Means and standard deviations of grey and of coloured images.
NORMALIZATION = {
    1: {'mean': [114.0], 'std': [58.0]},
    3: {'mean': [123.675, 116.28, 103.53], 'std': [58.395, 57.12, 57.375]},
}
SWAPS = ('bgr_to_rgb', 'rgb_to_bgr', 'to_rgb')


def check_channels(context: Context) -> Iterator[Finding]:
    """Images, the preprocessor and the backbone have the same number of channels."""
    cfg = context.cfg
    if get_type(get_value(cfg, 'model.backbone')) is None:
        return
    processor = 'model.data_preprocessor'
    if not get_value(cfg, f'{processor}.mean'):
        processor = 'data_preprocessor'
    for key, pipeline in context.iter_pipelines():
        for i, step in enumerate(pipeline):
            color = str(step.get('color_type', 'color'))
            if get_type(step) == 'LoadImageFromFile' and color != 'unchanged':
                loaded = 1 if 'grayscale' in color else 3
                yield from _compare(cfg, processor, f'{key}.{i}', loaded)
                break


def _compare(cfg, processor, step, loaded):
    """Compare the channels of loaded images with those that the model expects."""
    in_channels = get_value(cfg, 'model.backbone.in_channels')
    expected = in_channels if isinstance(in_channels, int) else 3
    mean = get_value(cfg, f'{processor}.mean')
    # One mean serves any number of channels.
    means = len(mean) if isinstance(mean, list | tuple) and len(mean) > 1 else None
    options: dict = {}
    if expected in (1, 3) and expected == (means or expected) != loaded:
        options[f'{step}.color_type'] = 'grayscale' if expected == 1 else 'color'
    else:
        if expected != loaded:
            options['model.backbone.in_channels'] = loaded
        if means not in (None, loaded):
            for name, values in NORMALIZATION[loaded].items():
                options[f'{processor}.{name}'] = values
        if loaded == 1 and get_toolbox(cfg) == 'mmdet':
            keys = (f'{processor}.{name}' for name in SWAPS)
            options.update({key: False for key in keys if get_value(cfg, key)})
    if options:
        yield error(
            f'{step} loads images with {loaded} channel(s), {processor} is for '
            f'{means or "any number"} and model.backbone.in_channels is {expected}: '
            f'{remedy(options)}'
        )


def check_pixel_range(context: Context) -> Iterator[Finding]:
    """Means and standard deviations are for pixels of 0 to 255."""
    for key in ('data_preprocessor', 'model.data_preprocessor'):
        settings = {
            f'{key}.{name}': get_value(context.cfg, f'{key}.{name}') or [0]
            for name in ('mean', 'std')
        }
        mean, std = settings.values()
        if 0 < max(mean) <= 1 and max(std) < 1:
            yield warning(
                f'{key}.mean={list(mean)} and std={list(std)} are for pixels of 0 to '
                '1, but images have 0 to 255: '
                + remedy(
                    {k: [round(255 * x, 3) for x in v] for k, v in settings.items()}
                )
            )
