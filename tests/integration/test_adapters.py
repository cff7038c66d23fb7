"""Short trainings by other libraries: saved, resumed without a jump, loaded again.

Each test needs its library: pip install lightning transformers accelerate ultralytics.
"""

import numpy as np
import pytest
import torch
from torch import nn

import ra_mm
from ra_mm.layers.temp_schedule import find_gates


def temps(model):
    return {round(gate.temp.item(), 3) for gate in find_gates([model])}


def gammas(model):
    return torch.cat([gate.gamma.detach() for gate in find_gates([model])])


def data(labels):
    g = torch.Generator().manual_seed(0)
    images = torch.randn(8, 3, 32, 32, generator=g)
    return [dict(pixel_values=x, **{labels: i % 2}) for i, x in enumerate(images)]


def test_lightning(tmp_path):
    lightning = pytest.importorskip('lightning.pytorch')
    timm = pytest.importorskip('timm')
    from ra_mm.adapters.lightning import TempCallback

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = ra_mm.convert(timm.create_model('test_resnet', num_classes=2))
            self.seen = []

        def training_step(self, batch):
            self.seen.append(temps(self))
            logits = self.model(batch['pixel_values'])
            return nn.functional.cross_entropy(logits, batch['label'])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    def fit(epochs, **kwargs):
        module = Module()
        trainer = lightning.Trainer(
            default_root_dir=tmp_path,
            max_epochs=epochs,
            accumulate_grad_batches=2,
            accelerator='cpu',
            callbacks=[TempCallback(4, start=5)],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        loader = torch.utils.data.DataLoader(data('label'), 2)
        trainer.fit(module, loader, **kwargs)
        trainer.save_checkpoint(tmp_path / 'last.ckpt')
        return module

    first = fit(1)
    assert first.seen == [{5}, {5}, {4}, {4}] and temps(first) == {3}
    assert gammas(first).any()
    second = fit(3, ckpt_path=tmp_path / 'last.ckpt')
    assert second.seen == [{3}, {3}, {2}, {2}, {1}, {1}, {1}, {1}]
    weights = torch.load(tmp_path / 'last.ckpt')['state_dict']
    loaded = Module()
    loaded.load_state_dict(weights)
    assert temps(loaded) == {1} and torch.equal(gammas(loaded), gammas(second))


def test_transformers(tmp_path):
    transformers = pytest.importorskip('transformers')
    pytest.importorskip('accelerate')
    from ra_mm.adapters.transformers import TempCallback

    def make():
        config = transformers.ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type='basic'
        )
        model = transformers.ResNetForImageClassification(config)
        return ra_mm.convert(model, blocks='ResNetBasicLayer')

    def fit(epochs, **kwargs):
        args = transformers.TrainingArguments(
            output_dir=tmp_path,
            num_train_epochs=epochs,
            per_device_train_batch_size=4,
            learning_rate=0.1,
            save_strategy='epoch',
            report_to=[],
            use_cpu=True,
        )
        trainer = transformers.Trainer(
            make(),
            args,
            train_dataset=data('labels'),
            callbacks=[TempCallback(4, start=5)],
        )
        trainer.train(**kwargs)
        return trainer.model

    first = fit(1)
    assert temps(first) == {3} and gammas(first).any()
    second = fit(2, resume_from_checkpoint=str(tmp_path / 'checkpoint-2'))
    assert temps(second) == {1}
    from safetensors.torch import load_file

    loaded = make()
    loaded.load_state_dict(load_file(tmp_path / 'checkpoint-2/model.safetensors'))
    assert temps(loaded) == {3} and torch.equal(gammas(loaded), gammas(first))


def test_ultralytics(tmp_path):
    pytest.importorskip('ultralytics')
    cv2 = pytest.importorskip('cv2')
    from ultralytics import YOLO

    from ra_mm.adapters.ultralytics import DetectionTrainer

    for folder in ('images', 'labels'):
        (tmp_path / folder).mkdir()
    for i in range(4):
        image = np.full((32, 32, 3), 40 * i, np.uint8)
        image[8:24, 8:24] = 255
        cv2.imwrite(str(tmp_path / f'images/{i}.png'), image)
        (tmp_path / f'labels/{i}.txt').write_text('0 0.5 0.5 0.5 0.5\n')
    (tmp_path / 'data.yaml').write_text(
        f'path: {tmp_path}\ntrain: images\nval: images\nnames: [square]\n'
    )

    seen = []

    class Stopped(Exception):
        pass

    def stop(trainer):
        raise Stopped

    def start(trainer):
        seen.append((temps(trainer.model), temps(trainer.ema.ema)))
        seen.append(gammas(trainer.model).clone())

    yolo = YOLO('yolo11n.yaml')
    yolo.add_callback('on_train_epoch_start', start)
    yolo.add_callback('on_model_save', stop)
    options = dict(
        epochs=2,
        imgsz=32,
        batch=2,
        workers=0,
        device='cpu',
        plots=False,
        amp=False,
        nbs=2,
        warmup_epochs=0,
        project=str(tmp_path),
        name='run',
    )
    with pytest.raises(Stopped):
        yolo.train(trainer=DetectionTrainer, data=tmp_path / 'data.yaml', **options)
    weights = tmp_path / 'run/weights'
    saved = torch.load(weights / 'last.pt', weights_only=False)['ema'].float()
    # 2 of the 20 steps, from 30 to 1, in half precision
    assert all(abs(t - 27.1) < 0.02 for t in temps(saved)) and gammas(saved).any()

    yolo = YOLO(weights / 'last.pt')
    yolo.add_callback('on_train_epoch_start', start)
    yolo.train(trainer=DetectionTrainer, resume=True)
    assert seen[0] == ({30}, {30}) and not seen[1].any()
    for found in seen[2]:
        assert all(abs(t - 27.1) < 0.02 for t in found)
    torch.testing.assert_close(seen[3], gammas(saved))
    best = YOLO(weights / 'best.pt')
    assert gammas(best.model).any()
    assert len(best.predict(tmp_path / 'images/1.png', imgsz=32, verbose=False)) == 1
