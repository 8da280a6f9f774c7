"""The example of a model that sees and hears."""

import re
import runpy
from pathlib import Path

import jax
import pytest

EXAMPLE = Path(__file__).parent.parent / 'examples' / 'actions'


@pytest.mark.exhaustive
def test_example_runs(capsys):
    """A few steps, enough to come closer; the README has what comes of all."""
    main = runpy.run_path(str(EXAMPLE / 'follow.py'))['main']
    with jax.enable_x64(False):
        main(steps=30)
    first, *_, last = map(float, re.findall(r'step \d+: off by (\d\.\d+)', capsys.readouterr().out))
    assert last < 0.6 * first
