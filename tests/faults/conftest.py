"""Processes that are killed while they save."""

import multiprocessing
import os
import signal
import sys

import pytest

from ra_mm.engine.checkpoint_hook import SafeCheckpointHook


@pytest.fixture
def in_a_process():
    """Call a function in a fork, and kill it after some time or while it saves.

    ``calls`` counts the functions, of Python and C, that are called from the
    moment when a checkpoint is due until it is saved. Returns the exit status
    and the number of such calls.
    """
    return _in_a_process


def _in_a_process(function, seconds=None, calls=None):
    count = multiprocessing.Value('q', 0, lock=False)

    def run():
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1), os.dup2(null, 2)

        def profile(frame, event, arg):
            count.value += 1
            if count.value == calls:
                os.kill(os.getpid(), signal.SIGKILL)

        def watch(save):
            def saving(*args, **kwargs):
                before = sys.getprofile()
                sys.setprofile(profile)
                save(*args, **kwargs)
                sys.setprofile(before)

            return saving

        for name in '_save_checkpoint_with_step', '_save_best_checkpoint':
            watched = watch(getattr(SafeCheckpointHook, name))
            setattr(SafeCheckpointHook, name, watched)
        function()

    process = multiprocessing.get_context('fork').Process(target=run)
    process.start()
    process.join(seconds or 200)
    process.kill()
    process.join()
    return process.exitcode, count.value
