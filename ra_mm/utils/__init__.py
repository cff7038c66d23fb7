"""What the layers' users share: command lines, checkpoints, files, costs."""
try:
    # The oldest mmengine with it is what ra_mm needs at least.
    from mmengine.runner.checkpoint import get_torch_safe_globals  # noqa: F401
except ImportError as e:
    raise ImportError(
        f'{e}. `python -m ra_mm.check_env` says what is wrong with the '
        'installation and what to do') from e
