import re

from reproduction import machine


def test_commit(tmp_path, monkeypatch):
    commit = machine.describe_commit()
    assert commit is None or re.fullmatch(r'[0-9a-f]{10,}( \(changed\))?', commit)
    monkeypatch.setattr(machine, 'REPO', tmp_path)  # not a checkout
    assert machine.describe_commit() is None


def test_missing_packages_have_no_version():
    versions = machine.package_versions(['torch', 'no_such_package'])
    assert set(versions) == {'python', 'torch'}
