"""Processes, GPUs, and the learning rate."""

import pytest
import torch


@pytest.fixture
def gpus(monkeypatch):
    """Pretend that there are GPUs."""

    def pretend(count):
        monkeypatch.setattr(torch.cuda, 'is_available', lambda: count > 0)
        monkeypatch.setattr(torch.cuda, 'device_count', lambda: count)

    return pretend


@pytest.fixture
def processes(cfg, monkeypatch):
    """Pretend that torchrun started this many processes."""

    def pretend(count):
        cfg.launcher = 'pytorch'
        monkeypatch.setenv('RANK', '0')
        monkeypatch.setenv('WORLD_SIZE', str(count))
        monkeypatch.setenv('LOCAL_WORLD_SIZE', str(count))

    return pretend


def test_no_gpu(check, cfg, gpus):
    gpus(0)
    (warning,) = check(cfg, 'test')
    assert 'no GPU' in warning


def test_learning_rate_for_another_batch_size(check, cfg, gpus, processes):
    gpus(4)
    processes(4)
    cfg.auto_scale_lr.base_batch_size = 16
    cfg.train_dataloader.batch_size = 2
    cfg.optim_wrapper.optimizer.lr = 0.02
    (warning,) = check(cfg, 'train')
    assert '16 images' in warning and ' 8 ' in warning
    assert 'optimizer.lr=0.01 ' in warning and '--auto-scale-lr' in warning
    assert check(cfg, 'test') == []

    cfg.train_dataloader.batch_size = 4
    assert check(cfg, 'train') == []


def test_learning_rate_with_accumulation(check, cfg, gpus, processes, refused):
    gpus(4)
    processes(4)
    cfg.auto_scale_lr.base_batch_size = 16
    cfg.train_dataloader.batch_size = 2
    cfg.optim_wrapper.optimizer.lr = 0.02
    cfg.optim_wrapper.accumulative_counts = 2
    assert check(cfg, 'train') == []
    cfg.optim_wrapper.accumulative_counts = 4
    (warning,) = check(cfg, 'train')
    assert 'optimizer.lr=0.04' in warning and '--auto-scale-lr' not in warning

    cfg.auto_scale_lr.enable = True
    message = refused(cfg)
    assert 'accumulative_counts=4' in message and 'optimizer.lr=0.04' in message
    assert 'auto_scale_lr.enable=False' in message
    cfg.optim_wrapper.accumulative_counts = 1
    assert check(cfg, 'train') == []


def test_launcher(cfg, gpus, monkeypatch, refused):
    gpus(0)
    monkeypatch.setenv('WORLD_SIZE', '2')
    assert 'pass --launcher pytorch' in refused(cfg)


def test_first_process_checks_for_the_others(check, cfg, monkeypatch, refused):
    cfg.train_dataloader.dataset.data_root = 'none'
    monkeypatch.setenv('LOCAL_RANK', '1')
    assert check(cfg, 'train') == []
    monkeypatch.setenv('LOCAL_RANK', '0')
    assert 'data_root' in refused(cfg)
