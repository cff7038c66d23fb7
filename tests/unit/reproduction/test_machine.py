import re

from reproduction import machine


def test_git_state(tmp_path, monkeypatch):
    commit, dirty = machine.git_state()
    assert commit is None or re.fullmatch('[0-9a-f]{40}', commit)
    assert (commit is None) == (dirty is None)
    monkeypatch.setattr(machine, 'REPO', tmp_path)  # not a checkout
    assert machine.git_state() == (None, None)


def test_missing_packages_have_no_version():
    versions = machine.package_versions(['torch', 'no_such_package'])
    assert set(versions) == {'python', 'torch'}
