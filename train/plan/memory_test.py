"""The memory that a plan predicts for this machine's CPU is what a step takes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import FLAGS
from train.conftest import ROOT

# Another process, since one that has been given memory before may not need more of it.
PROGRAM = """
import json, re
import jax, numpy as np
from train.cli import parse
from train.plan import topologies
from train.plan.standin import described
from train.plan.step import plan_step
from train.setup import set_up

def status(key):
    return 1024 * int(re.search(key + r':\\s+(\\d+)', open('/proc/self/status').read())[1])

topology = topologies.parse('cpu:1')
config, _ = described(parse('imagenet', ['--model.dtype=float32', '--model.name=simple_vit', '--model.patch-size=16',
    '--model.dim=64', '--model.depth=2', '--model.heads=4', '--model.dim-head=16', '--model.mlp-dim=256',
    '--batch-size=64'])[0])
plan = plan_step(config, topology)
setup = set_up(config)
batch = {name: jax.device_put(np.zeros(x.shape, x.dtype)) for name, x in setup.batch.items()}
state = jax.tree.map(lambda x: jax.device_put(np.zeros(x.shape, x.dtype)), setup.state)
step = setup.train_step.lower(state, batch).compile()
jax.block_until_ready((state, batch))
with open('/proc/self/clear_refs', 'w') as file:  # the peak is counted anew
    file.write('5')
before = status('VmRSS')
jax.block_until_ready(step(state, batch))
print(json.dumps({'predicted': plan.temporaries + plan.program, 'taken': status('VmHWM') - before}))
"""


@pytest.mark.skipif(not Path('/proc/self/clear_refs').exists(), reason='Linux counts the peak of its memory')
@pytest.mark.exhaustive
def test_a_step_on_this_cpu_takes_the_memory_that_is_planned():
    environment = {**os.environ, 'XLA_FLAGS': ' '.join(FLAGS), 'GLIBC_TUNABLES': ''}
    command = [sys.executable, '-c', PROGRAM]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found['predicted'] > 2e8
    assert found['taken'] == pytest.approx(found['predicted'], rel=0.25)
