"""Reverse attention in the smallest YOLO, trained by ultralytics on a CPU.

It draws a small dataset, trains from nothing, and writes pictures of the detections::

    pip install . ultralytics opencv-python-headless
    python examples/ultralytics_yolo.py
"""

import ra_mm.threads  # isort: skip # noqa: F401

import json
from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from ultralytics import YOLO

from ra_mm.adapters.ultralytics import DetectionTrainer
from ra_mm.conversion import summarize
from ra_mm.datasets.shapes import CLASSES, write_shapes


def write_dataset(folder: Path, images: int) -> Path:
    """Draw shapes, write their boxes as ultralytics reads them, return its YAML file."""
    write_shapes(
        folder / 'shapes',
        num_train=images,
        num_val=images // 5,
        image_size=160,
        classes_train=1,
        classes_val=1,
    )
    for split in ('train', 'val'):
        coco = json.loads((folder / f'shapes/annotations/{split}.json').read_text())
        lines: dict[int, list] = {image['id']: [] for image in coco['images']}
        for a in coco['annotations']:
            x, y, w, h = (value / 160 for value in a['bbox'])
            box = f'{x + w / 2} {y + h / 2} {w} {h}'
            lines[a['image_id']].append(f'{a["category_id"] - 1} {box}')
        for image in coco['images']:
            path = folder / f'shapes/labels/{split}/{image["file_name"]}'
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_suffix('.txt').write_text('\n'.join(lines[image['id']]))
    path = folder / 'shapes.yaml'
    path.write_text(
        f'path: {(folder / "shapes").resolve()}\n'
        f'train: images/train\nval: images/val\nnames: {list(CLASSES)}\n'
    )
    return path


def main(argv: Sequence[str] | None = None) -> float:
    parser = ArgumentParser(
        description=__doc__.splitlines()[0],
        formatter_class=ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument('--epochs', type=int, default=15)
    parser.add_argument('--images', type=int, default=800, help='for training')
    parser.add_argument('--out', type=Path, default=Path('work_dirs/yolo'))
    args = parser.parse_args(argv)
    data = write_dataset(args.out, args.images)

    class Trainer(DetectionTrainer):
        temp_epochs = args.epochs / 4  # in which temp falls

    options = dict(
        data=data,
        device='cpu',
        workers=0,
        plots=False,
        exist_ok=True,
        project=args.out.resolve(),
    )
    YOLO('yolo11n.yaml').train(
        trainer=Trainer,
        epochs=args.epochs,
        imgsz=160,
        batch=8,
        nbs=8,  # an optimizer step after each batch, not after 64 images
        optimizer='AdamW',
        lr0=0.002,
        momentum=0.9,
        warmup_epochs=1,
        warmup_bias_lr=0,
        mosaic=0,  # learns faster from few images without it
        name='run',
        amp=False,
        **options,
    )
    yolo = YOLO(args.out / 'run/weights/best.pt')
    print(summarize(yolo.model))
    size = 224  # enlarged: small shapes are found better than in 160 pixels
    score = yolo.val(imgsz=size, name='val', **options).box
    print(f'mAP50 {score.map50:.3f}, mAP50-95 {score.map:.3f}')
    images = sorted((args.out / 'shapes/images/val').iterdir())[:12]
    found = yolo.predict(
        images, imgsz=size, conf=0.4, agnostic_nms=True, device='cpu', verbose=False
    )
    drawn = [result.plot(line_width=1, font_size=8) for result in found]
    pictures = [cv2.resize(picture, (320, 320)) for picture in drawn]
    rows = [np.hstack(pictures[i : i + 4]) for i in range(0, len(pictures), 4)]
    cv2.imwrite(str(args.out / 'detections.png'), np.vstack(rows))
    print(f'detections: {args.out / "detections.png"}')
    return score.map50


if __name__ == '__main__':
    main()
