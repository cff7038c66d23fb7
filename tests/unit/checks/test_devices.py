"""Processes, GPUs, and the learning rate."""

import pytest
import torch


@pytest.fixture
def cfg_of_four(cfg, monkeypatch):
    """The config of four processes with GPUs, of 2 images each instead of 4."""
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setenv('WORLD_SIZE', '4')
    cfg.launcher = 'pytorch'
    cfg.auto_scale_lr.base_batch_size = 16
    cfg.train_dataloader.batch_size = 2
    cfg.optim_wrapper.optimizer.lr = 0.02
    return cfg


def test_no_gpu(check, cfg, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    (warning,) = check(cfg, 'test')
    assert 'no GPU' in warning


def test_learning_rate_for_another_batch_size(check, cfg_of_four):
    cfg = cfg_of_four
    (warning,) = check(cfg, 'train')
    assert '16 images' in warning and ' 8 ' in warning
    assert 'optimizer.lr=0.01 ' in warning and '--auto-scale-lr' in warning
    assert check(cfg, 'test') == []

    cfg.train_dataloader.batch_size = 4
    assert check(cfg, 'train') == []


def test_learning_rate_with_accumulation(check, cfg_of_four, refused):
    cfg = cfg_of_four
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


def test_launcher(cfg, monkeypatch, refused):
    monkeypatch.setenv('WORLD_SIZE', '2')
    assert 'pass --launcher pytorch' in refused(cfg)


def test_first_process_checks_for_the_others(check, cfg, monkeypatch, refused):
    cfg.train_dataloader.dataset.data_root = 'none'
    monkeypatch.setenv('LOCAL_RANK', '1')
    assert check(cfg, 'train') == []
    monkeypatch.setenv('LOCAL_RANK', '0')
    assert 'data_root' in refused(cfg)
