"""Audit the data sets of a config: look at a sample, and apply the rules."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope

from ra_mm.checks import images, labels
from ra_mm.checks.images import Finding, Observed, Rule
from ra_mm.checks.sample import fixed_randomness, iter_leaves, load_samples, scan
from ra_mm.errors import UserError, translate_errors

RULES: tuple[Rule, ...] = (
    images.check_readable,
    images.check_sizes,
    images.check_orientation,
    images.check_boxes,
    images.check_masks_and_boxes,
    images.check_objects,
    images.check_brightness,
    images.check_inputs,
    labels.check_names,
    labels.check_mask_files,
    labels.check_mask_values,
    labels.check_ignored_pixels,
    labels.check_label_range,
    labels.check_folder_names,
    labels.check_left_out,
)


@dataclass
class Audit:
    """What was looked at, and what was found."""

    parts: list[Observed]
    errors: list[str]
    warnings: list[str]
    cause: Exception | None = None  # of the first error that an exception led to

    def raise_errors(self) -> None:
        """Raise a :class:`UserError` with all errors, if there are any."""
        if self.errors:
            more = len(self.errors) > 1
            head = (
                [f'{len(self.errors)} things are wrong with the data:'] if more else []
            )
            raise UserError('\n- '.join([*head, *self.errors])) from self.cause


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


def audit(
    datasets: Mapping[str, Any],
    num: int = 32,
    seconds: float = 1,
    scan_seconds: float = 1,
    limit: float = 30,
) -> Audit:
    """Look at samples of datasets, and compare them with what is on disk.

    The state of the random number generators stays as it is.

    Args:
        datasets: Datasets or wrappers of them, by their key in the config. Those
            whose key begins with "train" are trained on.
        num: The number of images to look at in each, at least.
        seconds: More are looked at in each until this time is up.
        scan_seconds: The time to read the entries of each, without images.
        limit: Seconds after which no more images of a dataset are loaded.
    """
    parts = []
    findings: list[Finding] = []
    with fixed_randomness():
        for key, dataset in datasets.items():
            for leaf in iter_leaves(dataset, key, key.startswith('train')):
                if not hasattr(leaf.dataset, 'get_data_info'):
                    continue  # not one of mmengine's
                found = scan(leaf, scan_seconds)
                samples = load_samples(leaf, found, num, seconds, limit)
                parts.append(Observed(leaf, found, samples))
        for data in parts:
            findings += _apply(data)
        findings += labels.check_classes(parts)
        findings += labels.check_overlap(parts)
    findings = list(dict.fromkeys(findings))
    return Audit(
        parts,
        errors=[f.text for f in findings if f.is_error],
        warnings=[f.text for f in findings if not f.is_error],
        cause=next((f.cause for f in findings if f.cause is not None), None),
    )


def _apply(data: Observed) -> Iterator[Finding]:
    for rule in RULES:
        for finding in rule(data):
            yield finding._replace(text=f'{data.leaf.key}: {finding.text}')
