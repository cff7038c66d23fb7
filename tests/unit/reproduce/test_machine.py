import json
import re

import torch

from ra_mm.reproduce import machine


def test_environment():
    env = machine.environment()
    assert set(env) == {
        *('torch', 'cuda', 'driver', 'gpu', 'cpu', 'threads', 'python'),
        *('platform', 'commit', 'dirty', 'date'),
    }
    assert env['torch'] == torch.__version__
    assert env['threads'] == torch.get_num_threads()
    assert env['cpu']
    assert (env['gpu'] is None) != torch.cuda.is_available()
    json.dumps(env)


def test_git_state(tmp_path, monkeypatch):
    commit, dirty = machine.git_state()
    assert commit is None or re.fullmatch('[0-9a-f]{40}', commit)
    assert (commit is None) == (dirty is None)
    monkeypatch.setattr(machine, 'REPO', tmp_path)  # not a checkout
    assert machine.git_state() == (None, None)


def test_missing_packages_have_no_version():
    versions = machine.package_versions(['torch', 'no_such_package'])
    assert set(versions) == {'python', 'torch'}
