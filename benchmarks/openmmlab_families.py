"""Try one config per family of MMDetection and MMSegmentation on the CPU.

    python benchmarks/openmmlab_families.py mmdet|mmseg [FAMILY ...]

Builds the model of a config in each folder of the installed package, without its
weights, and computes the loss, its gradients and a prediction on random images of 128
pixels. It shows which families run on the operators that mmcv has.
"""

import argparse
import importlib
import logging
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData

SIZE = 128


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('toolbox', choices=['mmdet', 'mmseg'])
    parser.add_argument('families', nargs='*', metavar='FAMILY')
    args = parser.parse_args(argv)
    warnings.simplefilter('ignore')
    logging.disable(logging.WARNING)
    init_default_scope(args.toolbox)
    for name, path in find_configs(args.toolbox, args.families).items():
        print(f'{name} | {path.stem} | {try_config(path, args.toolbox)}', flush=True)


def find_configs(toolbox: str, families: Iterable[str] = ()) -> dict[str, Path]:
    """The config of the smallest model of each family, by the name of its folder."""
    package = Path(importlib.import_module(toolbox).__file__).parent
    paths = {}
    for path in sorted(package.glob('.mim/configs/[!_]*/*.py'), key=_cost):
        if not re.search('metafile|_tta$', path.stem):
            paths.setdefault(path.parent.name, path)
    return {name: paths[name] for name in families or sorted(paths)}


def _cost(path):
    return '50' not in path.stem, len(path.stem), path.stem


def find_backbones(toolbox: str) -> dict[str, Callable]:
    """By kind, functions that build the backbones in these configs, with their names."""
    init_default_scope(toolbox)
    build = importlib.import_module(f'{toolbox}.registry').MODELS.build
    found: dict[str, Callable] = {}
    for path in find_configs(toolbox).values():
        try:
            backbone = Config.fromfile(path).model.backbone
        except Exception:  # a model without one, or a base that is not installed
            continue
        prepare(backbone)
        extras = [key for key in ('dcn', 'plugins') if backbone.get(key)]
        kind = ' with '.join([str(backbone.get('type')), *extras])
        found.setdefault(kind, lambda p=path, b=backbone: (p.stem, build(b)))
    return found


def try_config(path: Path, toolbox: str) -> str:
    """Return 'runs', or what fails at which step."""
    step = 'config'
    try:
        model_cfg = Config.fromfile(path).model
        prepare(model_cfg)
        if toolbox == 'mmseg':  # it would pad to its crops of 512 pixels
            model_cfg.data_preprocessor.size = (SIZE, SIZE)
        step = 'build'
        registry = importlib.import_module(f'{toolbox}.registry').MODELS
        torch.manual_seed(0)
        model = registry.build(model_cfg)
        inputs = mmdet_inputs if toolbox == 'mmdet' else mmseg_inputs
        step = 'loss'
        batch = model.data_preprocessor(inputs(model_cfg, 2), True)
        losses = model.forward(**batch, mode='loss')
        model.parse_losses(losses)[0].backward()
        step = 'predict'
        model.eval()
        with torch.no_grad():
            batch = model.data_preprocessor(inputs(model_cfg, 1), False)
            model.forward(**batch, mode='predict')
    except Exception as e:
        lacking = re.search(r'does not have (\w+)', str(e))
        reason = f'operator {lacking[1]}' if lacking else ' '.join(str(e).split())[:90]
        return f'{step}: {type(e).__name__}: {reason}'
    return 'runs'


def prepare(node: Any) -> None:
    """Drop weights to download, resizing of batches and score thresholds."""
    if isinstance(node, dict):
        for key in ('init_cfg', 'pretrained', 'batch_augments'):
            node.pop(key, None)
        if node.get('type') == 'SyncBN':
            node['type'] = 'BN'
        if 'score_thr' in node:
            node['score_thr'] = 0.0
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for value in node:
            prepare(value)


def num_classes(cfg: ConfigDict) -> int:
    """Return the smallest number of classes in a config."""
    return min(map(int, re.findall(r"'num_classes': (\d+)", str(cfg))), default=2)


def mmdet_inputs(cfg: ConfigDict, count: int) -> dict:
    from mmdet.testing import demo_mm_inputs

    options = dict(with_mask=True, with_semantic='semantic' in str(cfg))
    shapes, items = [[3, SIZE, SIZE]] * count, [3] * count
    return demo_mm_inputs(count, shapes, items, num_classes(cfg), **options)


def mmseg_inputs(cfg: ConfigDict, count: int) -> dict:
    from mmseg.structures import SegDataSample

    meta = dict(ori_shape=(SIZE, SIZE), img_shape=(SIZE, SIZE))
    samples = [SegDataSample(metainfo=meta) for _ in range(count)]
    for sample in samples:
        mask = torch.randint(num_classes(cfg), (1, SIZE, SIZE))
        sample.gt_sem_seg = PixelData(data=mask)
    images = torch.randint(256, (count, 3, SIZE, SIZE), dtype=torch.uint8)
    return dict(inputs=[*images], data_samples=samples)


if __name__ == '__main__':
    main()
