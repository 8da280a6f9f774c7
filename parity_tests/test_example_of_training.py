"""The example that trains in both frameworks says that they agree."""

import re
import runpy
from pathlib import Path

EXAMPLE = Path(__file__).parent.parent / 'examples' / 'training_parity' / 'train_both.py'


def test_twenty_steps_have_the_same_losses(capsys):
    runpy.run_path(str(EXAMPLE), run_name='__main__')
    lines = capsys.readouterr().out.splitlines()
    losses = [[*map(float, re.findall(r'(?:jax|torch) ([\d.]+)', line))] for line in lines[:-1]]
    assert len(losses) == 20 and losses[-1][0] < losses[0][0]
    assert max(abs(mine - other) for mine, other in losses) <= 1e-8
    assert lines[-1].endswith('equal to 1e-8') and 'NOT' not in lines[-1]
