"""All rules, and the functions that apply them.

A rule is a generator of :class:`.Finding`, in the module of its subject. Rules of a
config need the files that it names at most, and run before anything is built. Rules
of samples need the built datasets.
"""

import os
from collections.abc import Iterable, Sequence
from typing import Any

from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope
from torch import nn

from ra_mm.checks import (
    annotations,
    boxes,
    channels,
    checkpoints,
    classes,
    devices,
    files,
    ignore_index,
    images,
    label_lists,
    labels,
    masks,
    operators,
    schedule,
    values,
)
from ra_mm.checks.context import Context
from ra_mm.checks.finding import Findings
from ra_mm.checks.sample import Part
from ra_mm.errors import translate_errors

# Of a config
VALUES = (values.check_values,)  # the other rules rely on the values
TRAINING = (schedule.check_val_begin, schedule.check_decay, devices.check_learning_rate)
RUN = (
    devices.check_processes,
    devices.check_compiled_operators,
    checkpoints.check_resume,
    checkpoints.check_local_checkpoints,
)
DATA = (
    files.check_paths,
    files.check_listed_images,
    files.check_unlisted_images,
    annotations.check_readable,
    annotations.check_categories,
    annotations.check_images_listed_twice,
    annotations.check_training_objects,
    annotations.check_masks,
    annotations.check_filter,
    annotations.check_metric,
    annotations.check_images_of_metric,
    boxes.check_coco_boxes,
    label_lists.check_label_lists,
    label_lists.check_class_folders,
    classes.check_num_classes,
    classes.check_palettes,
    channels.check_channels,
    channels.check_pixel_range,
    ignore_index.check_ignore_index,
    ignore_index.check_evaluated_masks,
)
DOWNLOADS = (checkpoints.check_remote_checkpoints,)

# Of the built model
MODEL = (operators.check_operators,)

# Of the samples of a dataset
SAMPLES = (
    images.check_readable,
    images.check_sizes,
    images.check_orientation,
    images.check_brightness,
    boxes.check_loaded_boxes,
    boxes.check_instance_masks,
    boxes.check_lost_objects,
    masks.check_mask_files,
    masks.check_mask_values,
    labels.check_label_range,
    labels.check_folder_names,
    labels.check_left_out,
)
# Of training against validation
SPLITS = (labels.check_missing_classes, labels.check_overlap)


def check_config(cfg: Config, mode: str, resume: str | None = None) -> Findings:
    """Check a config, its data and checkpoints, and the devices of this machine.

    Only the first process of each machine checks. Missing weights are downloaded to
    MMEngine's cache if everything else is in order.

    Args:
        cfg: The complete config, with command line options merged.
        mode: 'train', 'test' or 'data', see :class:`.Context`.
        resume: The value of ``--resume``, see :class:`.Context`.
    """
    found = Findings()
    if int(os.environ.get('LOCAL_RANK', 0)) != 0:
        return found
    context = Context(cfg, mode, resume)
    run = {'train': (*TRAINING, *RUN), 'test': RUN, 'data': ()}[mode]
    for rules in (VALUES, (*run, *DATA), DOWNLOADS if run else ()):
        for rule in rules:
            found += rule(context)
        if found.errors:  # nothing is downloaded for a run that cannot start
            break
    return found


def check_model(model: nn.Module) -> None:
    """Raise a :class:`.UserError` if a built model cannot run on this machine."""
    found = Findings()
    for rule in MODEL:
        found += rule(model)
    found.raise_errors()


def build_datasets(cfg: Config, parts: Iterable[str]) -> dict[str, Any]:
    """Build the datasets of a config, by their key in it.

    Raises:
        UserError: If one cannot be built.
    """
    init_default_scope(cfg.get('default_scope') or 'mmengine')
    built = {}
    for part in parts:
        node = (cfg.get(f'{part}_dataloader') or {}).get('dataset')
        if node is not None:
            key = f'{part}_dataloader.dataset'
            with translate_errors(f'{key} cannot be built'):
                built[key] = DATASETS.build(node)
                if hasattr(built[key], 'full_init'):
                    built[key].full_init()
    return built


def check_samples(parts: Sequence[Part]) -> Findings:
    """Check loaded samples, see :func:`.load_parts`."""
    found = Findings()
    for part in parts:
        for rule in SAMPLES:
            for finding in rule(part):
                found.append(finding._replace(text=f'{part.key}: {finding.text}'))
    for compare in SPLITS:
        found += compare(parts)
    return found
