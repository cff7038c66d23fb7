from pathlib import Path

import pytest

TOOLS = sorted(path.stem for path in (Path(__file__).parents[2] / 'tools').glob('*.py'))


@pytest.mark.parametrize('name', TOOLS)
def test_help(tool, name, capsys):
    with pytest.raises(SystemExit) as stop:
        tool(name)('--help')
    assert stop.value.code == 0
    assert f'usage: tools/{name}.py' in capsys.readouterr().out
