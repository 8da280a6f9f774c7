"""The examples with loops of other people print the same losses for all of them."""

import runpy
from pathlib import Path

import jax
import pytest

FOLDER = Path(__file__).parent.parent / 'examples' / 'your_own_loop'


@pytest.mark.exhaustive
def test_all_loops_have_the_losses_of_the_page(capsys):
    page = (FOLDER / 'README.md').read_text()
    with jax.enable_x64(False):
        for name in ('on_devices', 'in_flax'):
            runpy.run_path(str(FOLDER / f'{name}.py'), run_name='__main__')
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5 and all(line in page for line in lines), lines
